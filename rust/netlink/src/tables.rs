//! Tables of nf_tables (`linux/netfilter/nf_tables.h`) that somebody else has made: their elements,
//! the rules that `nft` cannot write, and whether they are as they were. One transaction of any
//! size is one message to the kernel.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::io;

use crate::attribute::{
    FLAG_DUMP, HEADER, Head, attributes, close, find, number, open, put, put_nested,
};
use crate::exchange::Exchange;
use crate::rule::{DATA_VALUE, LIST_ELEMENT, Rule, terminated};

/// A table by family (`AF_INET`, `AF_INET6`) and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Table {
    /// The family.
    pub family: u8,
    /// The name.
    pub name: String,
}

/// A part of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The table's chains are in force from now on.
    Activate(Table),
    /// The table goes, with everything in it.
    Delete(Table),
    /// Elements come into a set or map.
    Add(Table, String, Elements),
    /// Elements leave a set or map; their keys say which.
    Remove(Table, String, Elements),
    /// A rule comes to the end of a chain.
    Append(Table, String, Rule),
}

/// Elements of a set or map, one behind the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Elements {
    /// Length of a key.
    key: usize,
    /// Length of a key and its value.
    whole: usize,
    bytes: Vec<u8>,
}

impl Elements {
    /// Keys with their values; a set has values of no length. `None` when that is no number of
    /// whole elements, or a key or value is longer than any (64 bytes).
    #[must_use]
    pub fn new(key: usize, value: usize, bytes: Vec<u8>) -> Option<Self> {
        let is_sound = (1..=LONGEST).contains(&key)
            && value <= LONGEST
            && bytes.len().is_multiple_of(key + value);
        is_sound.then_some(Self { key, whole: key + value, bytes })
    }

    /// A sum over all elements, in whatever order; that of what comes or goes can be added or taken
    /// away. Two sets with the same sum hold the same, but for one chance in 2^64.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let elements = self.bytes.chunks(self.whole).map(|one| one.split_at(self.key));
        elements.fold(0, |sum, (key, value)| sum.wrapping_add(fingerprint(key, value)))
    }
}

/// The tables in the network namespace of the thread that opened this.
#[derive(Debug)]
pub struct Tables(Exchange);

impl Tables {
    /// No privilege is needed yet.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        Exchange::open(libc::NETLINK_NETFILTER).map(Self)
    }

    /// A number that grows by one with each transaction, whoever makes it.
    ///
    /// # Errors
    /// The system's: no such kernel module.
    pub fn generation(&mut self) -> io::Result<u32> {
        let mut generation = None;
        self.ask(GET_GENERATION, 0, 0, &[], |message| {
            generation = attributes(message)
                .find(|&(kind, _)| kind == GENERATION_ID)
                .and_then(|(_, id)| number(id));
        })?;
        generation.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// All tables of one family; whether each is dormant.
    ///
    /// # Errors
    /// As [`Tables::generation`].
    pub fn names(&mut self, family: u8) -> io::Result<Vec<(String, bool)>> {
        let mut found = Vec::new();
        self.ask(GET_TABLE, FLAG_DUMP, family, &[], |message| {
            let flags = find(message, TABLE_FLAGS).and_then(number).unwrap_or_default();
            found.extend(find(message, TABLE_NAME).map(|name| (text(name), flags & DORMANT != 0)));
        })?;
        Ok(found)
    }

    /// The chains of a table, each with a number that changes with its rules, its hook and its
    /// policy; nothing for a table that is not there.
    ///
    /// # Errors
    /// As [`Tables::generation`].
    pub fn rules(&mut self, table: &Table) -> io::Result<BTreeMap<String, u64>> {
        let mut chains: BTreeMap<String, DefaultHasher> = BTreeMap::new();
        self.ask(GET_CHAIN, FLAG_DUMP, table.family, &[], |message| {
            let is_ours = find(message, CHAIN_TABLE).is_some_and(|name| text(name) == table.name);
            if let Some(name) = find(message, CHAIN_NAME).filter(|_| is_ours) {
                let hasher = chains.entry(text(name)).or_default();
                for kind in [CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE] {
                    hasher.write(find(message, kind).unwrap_or_default());
                }
            }
        })?;
        let wanted = [(RULE_TABLE, terminated(&table.name))];
        self.ask(GET_RULE, FLAG_DUMP, table.family, &wanted, |message| {
            let named =
                |kind, wanted: &str| find(message, kind).is_some_and(|name| text(name) == wanted);
            if !named(RULE_TABLE, &table.name) {
                return;
            }
            if let Some(chain) = find(message, RULE_CHAIN) {
                let hasher = chains.entry(text(chain)).or_default();
                hasher.write(find(message, RULE_EXPRESSIONS).unwrap_or_default());
            }
        })?;
        Ok(chains.into_iter().map(|(chain, hasher)| (chain, hasher.finish())).collect())
    }

    /// What a set or map holds, as of [`Elements::fingerprint`]; `None` when it is not there.
    ///
    /// # Errors
    /// As [`Tables::generation`].
    pub fn fingerprint(&mut self, table: &Table, set: &str) -> io::Result<Option<u64>> {
        let wanted = [(ELEMENTS_TABLE, terminated(&table.name)), (ELEMENTS_SET, terminated(set))];
        let mut sum = 0u64;
        let asked = self.ask(GET_ELEMENTS, FLAG_DUMP, table.family, &wanted, |message| {
            for (_, element) in attributes(find(message, ELEMENTS).unwrap_or_default()) {
                let datum = |kind| {
                    find(element, kind).and_then(|own| find(own, DATA_VALUE)).unwrap_or_default()
                };
                sum = sum.wrapping_add(fingerprint(datum(ELEMENT_KEY), datum(ELEMENT_VALUE)));
            }
        });
        match asked {
            Ok(()) => Ok(Some(sum)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes all steps, in their order, or none.
    ///
    /// # Errors
    /// The system's: the kernel refuses a step.
    pub fn commit(&mut self, steps: &[Step]) -> io::Result<()> {
        let mut bytes = Vec::new();
        put_border(&mut bytes, BATCH_BEGIN);
        for step in steps {
            put_step(&mut bytes, step);
        }
        put_border(&mut bytes, BATCH_END);
        self.0.commit(&bytes)
    }

    /// Sends a request, and shows the attributes of each message of the answer.
    fn ask(
        &mut self,
        kind: u8,
        flags: u16,
        family: u8,
        wanted: &[(u16, Vec<u8>)],
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut request = Vec::new();
        let start =
            open(&mut request, Head { subsystem: SUBSYSTEM, kind, flags, family, resource: 0 });
        for (kind, value) in wanted {
            put(&mut request, *kind, value);
        }
        close(&mut request, start, 0);
        self.0.ask(&request, |_, message| each(message.get(HEADER..).unwrap_or_default()))
    }
}

/// One element's part of a sum.
fn fingerprint(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    hasher.write(value);
    hasher.finish()
}

/// The first or the last message of a transaction.
fn put_border(bytes: &mut Vec<u8>, kind: u8) {
    let start = open(bytes, Head { kind, resource: SUBSYSTEM, ..Head::default() });
    close(bytes, start, 0);
}

fn put_step(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Activate(table) => put_message(bytes, NEW_TABLE, table.family, |bytes| {
            put(bytes, TABLE_NAME, &terminated(&table.name));
            put(bytes, TABLE_FLAGS, &0u32.to_be_bytes());
        }),
        Step::Delete(table) => put_message(bytes, DELETE_TABLE, table.family, |bytes| {
            put(bytes, TABLE_NAME, &terminated(&table.name));
        }),
        Step::Append(table, chain, rule) => put_rule(bytes, table, chain, rule),
        Step::Add(table, set, elements) => put_elements(bytes, NEW_ELEMENTS, table, set, elements),
        Step::Remove(table, set, elements) => {
            put_elements(bytes, DELETE_ELEMENTS, table, set, elements)
        }
    }
}

/// As many messages as are needed: an attribute has at most 64 kB.
fn put_elements(bytes: &mut Vec<u8>, kind: u8, table: &Table, set: &str, elements: &Elements) {
    for some in elements.bytes.chunks(elements.whole * ELEMENTS_AT_ONCE) {
        put_message(bytes, kind, table.family, |bytes| {
            put(bytes, ELEMENTS_TABLE, &terminated(&table.name));
            put(bytes, ELEMENTS_SET, &terminated(set));
            put_nested(bytes, ELEMENTS, |bytes| {
                for (key, value) in
                    some.chunks(elements.whole).map(|one| one.split_at(elements.key))
                {
                    put_nested(bytes, LIST_ELEMENT, |bytes| {
                        put_nested(bytes, ELEMENT_KEY, |bytes| put(bytes, DATA_VALUE, key));
                        if kind == NEW_ELEMENTS && !value.is_empty() {
                            put_nested(bytes, ELEMENT_VALUE, |bytes| put(bytes, DATA_VALUE, value));
                        }
                    });
                }
            });
        });
    }
}

fn put_rule(bytes: &mut Vec<u8>, table: &Table, chain: &str, rule: &Rule) {
    let start = open(
        bytes,
        Head {
            subsystem: SUBSYSTEM,
            kind: NEW_RULE,
            flags: FLAG_CREATE | FLAG_APPEND,
            family: table.family,
            ..Head::default()
        },
    );
    put(bytes, RULE_TABLE, &terminated(&table.name));
    put(bytes, RULE_CHAIN, &terminated(chain));
    put_nested(bytes, RULE_EXPRESSIONS, |bytes| rule.put(bytes, table.family));
    close(bytes, start, 0);
}

fn put_message(bytes: &mut Vec<u8>, kind: u8, family: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = open(
        bytes,
        Head { subsystem: SUBSYSTEM, kind, flags: FLAG_CREATE, family, ..Head::default() },
    );
    fill(bytes);
    close(bytes, start, 0);
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned()
}

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u8 = 0x10;
const BATCH_END: u8 = 0x11;
const NEW_TABLE: u8 = 0;
const GET_TABLE: u8 = 1;
const DELETE_TABLE: u8 = 2;
const GET_CHAIN: u8 = 4;
const NEW_RULE: u8 = 6;
const GET_RULE: u8 = 7;
const NEW_ELEMENTS: u8 = 12;
const GET_ELEMENTS: u8 = 13;
const DELETE_ELEMENTS: u8 = 14;
const GET_GENERATION: u8 = 16;
const FLAG_CREATE: u16 = 0x400;
const FLAG_APPEND: u16 = 0x800;
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const DORMANT: u32 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_VALUE: u16 = 2;
const GENERATION_ID: u16 = 1;
/// Bytes of a key or a value (`NFT_DATA_VALUE_MAXLEN`).
const LONGEST: usize = 64;
/// These have less than 64 kB, an attribute's largest length, headers included.
const ELEMENTS_AT_ONCE: usize = 400;

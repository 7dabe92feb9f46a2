//! The tables in the kernel, which transactions change, and whether they are as they were.
//!
//! Other programs may change our tables at any time. To notice that costs little while nothing
//! changes, and little memory where it does:
//!
//! - The generation grows by one with each transaction of any program. While it stays, so do all
//!   tables.
//! - A chain is known by a hash over its hook and the expressions of its rules, in their order. The
//!   kernel returns expressions as it would write them, so the hash of a rule is learned from the
//!   kernel, and never computed from the rule that was sent.
//! - A set or map is known by a sum of hashes over its elements. The order of a dump is the
//!   kernel's, and a sum has none; and it follows changes without the elements that stay.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::net::IpAddr;

use super::elements::fingerprint;
use super::table::{Table, c_string, text};
use super::transaction::{CommitError, Transaction};
use super::uapi::{
    GET_CHAIN, GET_ELEMENTS, GET_GENERATION, GET_OBJECT, GET_RULE, GET_TABLE, NFT_OBJECT_COUNTER,
    NFT_TABLE_F_DORMANT, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TABLE,
    NFTA_CHAIN_TYPE, NFTA_COUNTER_PACKETS, NFTA_DATA_VALUE, NFTA_GEN_ID, NFTA_OBJ_DATA,
    NFTA_OBJ_NAME, NFTA_OBJ_TABLE, NFTA_OBJ_TYPE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS,
    NFTA_RULE_TABLE, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_EXPIRATION, NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE,
    NFTA_TABLE_FLAGS, NFTA_TABLE_NAME, SUBSYSTEM,
};
use crate::attribute::{FLAG_DUMP, HEADER, Head, attributes, close, find, number, open, put};
use crate::exchange::{Exchange, Refusal};
use crate::family::Family;

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

    /// A number that grows by one with each transaction of any program.
    ///
    /// # Errors
    /// The system's: no such kernel module.
    pub fn generation(&mut self) -> io::Result<u32> {
        let mut generation = None;
        self.ask(GET_GENERATION, 0, None, &[], |message| {
            generation = find(message, NFTA_GEN_ID).and_then(number);
        })?;
        generation.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The names of all tables of one family, and whether each is dormant.
    ///
    /// # Errors
    /// As [`Tables::generation`].
    pub fn names(&mut self, family: Family) -> io::Result<Vec<(String, bool)>> {
        let mut names = Vec::new();
        self.ask(GET_TABLE, FLAG_DUMP, Some(family), &[], |message| {
            let flags = find(message, NFTA_TABLE_FLAGS).and_then(number).unwrap_or_default();
            let is_dormant = flags & NFT_TABLE_F_DORMANT != 0;
            names.extend(find(message, NFTA_TABLE_NAME).map(|name| (text(name), is_dormant)));
        })?;
        Ok(names)
    }

    /// The chains of a table, each with a number that changes with its rules, its hook and its
    /// policy; nothing for a table that is not there.
    ///
    /// # Errors
    /// As [`Tables::generation`].
    pub fn rules(&mut self, table: &Table) -> io::Result<BTreeMap<String, u64>> {
        let mut chains: BTreeMap<String, DefaultHasher> = BTreeMap::new();
        let has_name =
            |message: &[u8], kind| find(message, kind).is_some_and(|name| text(name) == table.name);
        self.ask(GET_CHAIN, FLAG_DUMP, Some(table.family), &[], |message| {
            let name = find(message, NFTA_CHAIN_NAME);
            if let Some(name) = name.filter(|_| has_name(message, NFTA_CHAIN_TABLE)) {
                let hasher = chains.entry(text(name)).or_default();
                // A chain that has lost its hook still has its rules, so the hook counts as well.
                for kind in [NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE] {
                    hasher.write(find(message, kind).unwrap_or_default());
                }
            }
        })?;
        // Old kernels dump the rules of all tables, whatever is asked for.
        let filter = [(NFTA_RULE_TABLE, c_string(&table.name))];
        self.ask(GET_RULE, FLAG_DUMP, Some(table.family), &filter, |message| {
            let chain = find(message, NFTA_RULE_CHAIN);
            if let Some(chain) = chain.filter(|_| has_name(message, NFTA_RULE_TABLE)) {
                // Rules come in their order. Their handles are left out, because handles differ
                // after a repair.
                let hasher = chains.entry(text(chain)).or_default();
                hasher.write(find(message, NFTA_RULE_EXPRESSIONS).unwrap_or_default());
            }
        })?;
        Ok(chains.into_iter().map(|(chain, hasher)| (chain, hasher.finish())).collect())
    }

    /// The [`super::Elements::fingerprint`] of a set or map; `None` when the kernel does not have
    /// it.
    ///
    /// # Errors
    /// As [`Tables::generation`].
    pub fn fingerprint(&mut self, table: &Table, set: &str) -> io::Result<Option<u64>> {
        let mut sum = 0u64;
        let is_there = self.elements(table, set, |element| {
            let (key, value) =
                (datum(element, NFTA_SET_ELEM_KEY), datum(element, NFTA_SET_ELEM_DATA));
            // A dump comes in several messages: sums of parts add up.
            sum = sum.wrapping_add(fingerprint(key, value));
        })?;
        Ok(is_there.then_some(sum))
    }

    /// The keys of a set, or keys and values of a map, each behind the other as
    /// [`super::Elements`] has them; `None` when the kernel does not have it.
    ///
    /// # Errors
    /// As [`Tables::generation`].
    pub fn contents(&mut self, table: &Table, set: &str) -> io::Result<Option<Vec<u8>>> {
        let mut contents = Vec::new();
        let is_there = self.elements(table, set, |element| {
            contents.extend_from_slice(datum(element, NFTA_SET_ELEM_KEY));
            contents.extend_from_slice(datum(element, NFTA_SET_ELEM_DATA));
        })?;
        Ok(is_there.then_some(contents))
    }

    /// The addresses in a set, each with the milliseconds after which it leaves the set, if it
    /// does. Nothing for a set that is not there, or that has keys of another length.
    ///
    /// # Errors
    /// As [`Tables::generation`].
    pub fn addresses(
        &mut self,
        table: &Table,
        set: &str,
    ) -> io::Result<Vec<(IpAddr, Option<u64>)>> {
        let mut addresses = Vec::new();
        self.elements(table, set, |element| {
            let expiry = find(element, NFTA_SET_ELEM_EXPIRATION);
            let expiry = expiry.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            let address = address(datum(element, NFTA_SET_ELEM_KEY));
            addresses.extend(address.map(|address| (address, expiry)));
        })?;
        Ok(addresses)
    }

    /// The packets that a counter of a table has counted; `None` when the kernel does not have it.
    ///
    /// # Errors
    /// As [`Tables::generation`].
    pub fn counted_packets(&mut self, table: &Table, counter: &str) -> io::Result<Option<u64>> {
        let filter = [
            (NFTA_OBJ_TABLE, c_string(&table.name)),
            (NFTA_OBJ_NAME, c_string(counter)),
            (NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER.to_be_bytes().to_vec()),
        ];
        let mut packets = None;
        let answer = self.ask(GET_OBJECT, 0, Some(table.family), &filter, |message| {
            let data = find(message, NFTA_OBJ_DATA).unwrap_or_default();
            let bytes = find(data, NFTA_COUNTER_PACKETS).and_then(|bytes| bytes.try_into().ok());
            packets = bytes.map(u64::from_be_bytes);
        });
        match answer {
            // ENOENT: there is no such table or no such counter in it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            answer => answer.map(|()| packets),
        }
    }

    /// Shows the attributes of each element of a set or map. False when the kernel does not have
    /// it.
    fn elements(
        &mut self,
        table: &Table,
        set: &str,
        mut on_element: impl FnMut(&[u8]),
    ) -> io::Result<bool> {
        let filter = [
            (NFTA_SET_ELEM_LIST_TABLE, c_string(&table.name)),
            (NFTA_SET_ELEM_LIST_SET, c_string(set)),
        ];
        let dump = self.ask(GET_ELEMENTS, FLAG_DUMP, Some(table.family), &filter, |message| {
            let list = find(message, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
            attributes(list).for_each(|(_, element)| on_element(element));
        });
        match dump {
            Ok(()) => Ok(true),
            // ENOENT: there is no such table or no such set in it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes all steps of a transaction, in their order, or none. An empty one is not sent.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn commit(&mut self, transaction: &Transaction) -> Result<(), CommitError> {
        if transaction.is_empty() {
            return Ok(());
        }
        self.0
            .commit(&transaction.datagram())?
            .map_err(|Refusal { sequence, error }| transaction.refusal(sequence, error))
    }

    /// Sends a request, and shows the attributes of each message of the answer.
    fn ask(
        &mut self,
        kind: u8,
        flags: u16,
        family: Option<Family>,
        filter: &[(u16, Vec<u8>)],
        mut on_message: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut request = Vec::new();
        let head = Head { subsystem: SUBSYSTEM, kind, flags, family, ..Head::default() };
        let start = open(&mut request, head);
        for (kind, value) in filter {
            put(&mut request, *kind, value);
        }
        close(&mut request, start, 0);
        self.0.ask(&request, |_, message| on_message(message.get(HEADER..).unwrap_or_default()))
    }
}

/// The key or the value of an element.
fn datum(element: &[u8], kind: u16) -> &[u8] {
    find(element, kind).and_then(|data| find(data, NFTA_DATA_VALUE)).unwrap_or_default()
}

fn address(key: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(key).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(key).ok().map(IpAddr::from))
}

//! A transaction as a value, and the messages that it is to the kernel.
//!
//! One datagram holds all of it: a message that begins a batch, the messages of the steps, and a
//! message that ends the batch. The kernel applies all steps in their order, or none. Each message
//! has the position of its step as its sequence number, and the kernel repeats that number in an
//! error. So [`CommitError`] names the step that the kernel refused.

use std::fmt;
use std::io;

use super::elements::{Elements, put_element};
use super::rule::Rule;
use super::table::{Table, c_string};
use super::uapi::{
    BATCH_BEGIN, BATCH_END, DELETE_ELEMENTS, DELETE_TABLE, FLAG_APPEND, FLAG_CREATE, NEW_ELEMENTS,
    NEW_RULE, NEW_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE,
    NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE,
    NFTA_TABLE_FLAGS, NFTA_TABLE_NAME, SUBSYSTEM,
};
use crate::attribute::{Head, close, open, put, put_nest};

/// Steps that the kernel takes all together or not at all, in the order in which they were added.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transaction(Vec<Step>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    Append(Table, String, Rule),
    Insert(Table, String, Rule),
    Add(Table, String, Elements),
    Remove(Table, String, Elements),
    DeleteTable(Table),
    Activate(Table),
}

/// Why a transaction was not applied. The kernel has nothing of it then.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The kernel refused this step.
    #[error("{0}: {1}")]
    Step(String, io::Error),
    /// The kernel refused all of it, or the system failed.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl Transaction {
    /// Adds a rule at the end of a chain.
    pub fn append(&mut self, table: Table, chain: String, rule: Rule) {
        self.0.push(Step::Append(table, chain, rule));
    }

    /// Adds a rule at the beginning of a chain.
    pub fn insert(&mut self, table: Table, chain: String, rule: Rule) {
        self.0.push(Step::Insert(table, chain, rule));
    }

    /// Adds elements to a set or map. The kernel refuses those that are there already with another
    /// value.
    pub fn add(&mut self, table: Table, set: String, elements: Elements) {
        self.0.push(Step::Add(table, set, elements));
    }

    /// Removes the elements with these keys from a set or map. The kernel refuses those that are
    /// not there.
    pub fn remove(&mut self, table: Table, set: String, elements: Elements) {
        self.0.push(Step::Remove(table, set, elements));
    }

    /// Deletes a table with everything in it.
    pub fn delete_table(&mut self, table: Table) {
        self.0.push(Step::DeleteTable(table));
    }

    /// Puts the chains of a dormant table in force.
    pub fn activate(&mut self, table: Table) {
        self.0.push(Step::Activate(table));
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each step in words.
    pub fn steps(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(Step::to_string)
    }

    /// The datagram.
    pub(super) fn datagram(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // The kernel looks for both borders in one datagram, and takes nothing without the second.
        put_border(&mut bytes, BATCH_BEGIN);
        for (step, sequence) in self.0.iter().zip(1..) {
            step.put(&mut bytes, sequence);
        }
        put_border(&mut bytes, BATCH_END);
        bytes
    }

    /// The kernel's error about the message with this sequence number.
    pub(super) fn refusal(&self, sequence: u32, error: io::Error) -> CommitError {
        // The messages that begin and end the batch have number 0.
        let position = (sequence as usize).checked_sub(1);
        match position.and_then(|position| self.0.get(position)) {
            Some(step) => CommitError::Step(step.to_string(), error),
            None => CommitError::System(error),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append(table, chain, rule) => {
                write!(formatter, "append a rule ({rule}) to chain {chain} of table {table}")
            }
            Self::Insert(table, chain, rule) => {
                write!(formatter, "insert a rule ({rule}) into chain {chain} of table {table}")
            }
            Self::Add(table, set, elements) => {
                write!(formatter, "add elements ({}) to {set} of table {table}", elements.count())
            }
            Self::Remove(table, set, elements) => {
                let count = elements.count();
                write!(formatter, "remove elements ({count}) from {set} of table {table}")
            }
            Self::DeleteTable(table) => write!(formatter, "delete table {table}"),
            Self::Activate(table) => write!(formatter, "activate table {table}"),
        }
    }
}

impl Step {
    fn put(&self, bytes: &mut Vec<u8>, sequence: u32) {
        let head = |kind, table: &Table| Head {
            subsystem: SUBSYSTEM,
            kind,
            // A new rule without this flag is EINVAL.
            flags: FLAG_CREATE,
            sequence,
            family: Some(table.family),
            ..Head::default()
        };
        match self {
            Self::Append(table, chain, rule) => {
                // Without FLAG_APPEND the rule would stand first in its chain.
                let head = Head { flags: FLAG_CREATE | FLAG_APPEND, ..head(NEW_RULE, table) };
                put_rule(bytes, head, table, chain, rule);
            }
            Self::Insert(table, chain, rule) => {
                put_rule(bytes, head(NEW_RULE, table), table, chain, rule);
            }
            Self::Add(table, set, elements) => {
                put_elements(bytes, head(NEW_ELEMENTS, table), table, set, elements);
            }
            Self::Remove(table, set, elements) => {
                put_elements(bytes, head(DELETE_ELEMENTS, table), table, set, elements);
            }
            Self::DeleteTable(table) => put_message(bytes, head(DELETE_TABLE, table), |bytes| {
                put(bytes, NFTA_TABLE_NAME, &c_string(&table.name));
            }),
            Self::Activate(table) => put_message(bytes, head(NEW_TABLE, table), |bytes| {
                put(bytes, NFTA_TABLE_NAME, &c_string(&table.name));
                // No flag at all: the table is dormant no more.
                put(bytes, NFTA_TABLE_FLAGS, &0u32.to_be_bytes());
            }),
        }
    }
}

fn put_rule(bytes: &mut Vec<u8>, head: Head, table: &Table, chain: &str, rule: &Rule) {
    put_message(bytes, head, |bytes| {
        put(bytes, NFTA_RULE_TABLE, &c_string(&table.name));
        put(bytes, NFTA_RULE_CHAIN, &c_string(chain));
        put_nest(bytes, NFTA_RULE_EXPRESSIONS, |bytes| rule.put(bytes, table.family));
    });
}

/// As many messages as are needed, since an attribute has at most 64 kB.
fn put_elements(bytes: &mut Vec<u8>, head: Head, table: &Table, set: &str, elements: &Elements) {
    for chunk in elements.chunks(ELEMENTS_AT_ONCE) {
        put_message(bytes, head, |bytes| {
            put(bytes, NFTA_SET_ELEM_LIST_TABLE, &c_string(&table.name));
            put(bytes, NFTA_SET_ELEM_LIST_SET, &c_string(set));
            put_nest(bytes, NFTA_SET_ELEM_LIST_ELEMENTS, |bytes| {
                for (key, value) in chunk {
                    // The kernel finds an element to remove by its key alone.
                    let value = if head.kind == NEW_ELEMENTS { value } else { &[] };
                    put_element(bytes, key, value);
                }
            });
        });
    }
}

fn put_border(bytes: &mut Vec<u8>, kind: u8) {
    // Border messages name their subsystem as a resource.
    put_message(bytes, Head { kind, resource: SUBSYSTEM, ..Head::default() }, |_| {});
}

fn put_message(bytes: &mut Vec<u8>, head: Head, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = open(bytes, head);
    fill(bytes);
    close(bytes, start, 0);
}

/// Elements of one message: with headers and the longest keys and values they have less than 64 kB.
const ELEMENTS_AT_ONCE: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::messages;
    use crate::family::Family;

    fn table() -> Table {
        Table { family: Family::V6, name: "own".into() }
    }

    fn transaction() -> Transaction {
        let mut transaction = Transaction::default();
        let elements = Elements::new(4, 4, &[7; 8 * (ELEMENTS_AT_ONCE + 1)]).expect("whole");
        transaction.add(table(), "map".into(), elements.clone());
        transaction.remove(table(), "map".into(), elements);
        transaction.delete_table(table());
        transaction.activate(table());
        transaction
    }

    #[test]
    fn steps_keep_their_order_and_each_message_says_whose_it_is() {
        let datagram = transaction().datagram();
        let heads: Vec<(u16, u32)> = messages(&datagram)
            .map(|(kind, message)| (kind & 0xff, crate::attribute::sequence(message)))
            .collect();
        let kind = u16::from;
        assert_eq!(
            heads,
            [
                (kind(BATCH_BEGIN), 0),
                (kind(NEW_ELEMENTS), 1),
                (kind(NEW_ELEMENTS), 1),
                (kind(DELETE_ELEMENTS), 2),
                (kind(DELETE_ELEMENTS), 2),
                (kind(DELETE_TABLE), 3),
                (kind(NEW_TABLE), 4),
                (kind(BATCH_END), 0),
            ]
        );
    }

    #[test]
    fn a_refusal_names_its_step() {
        let transaction = transaction();
        let refusal = |sequence| {
            transaction.refusal(sequence, io::Error::from_raw_os_error(libc::ENOENT)).to_string()
        };
        assert!(refusal(2).starts_with("remove elements (401) from map of table ip6 own: No such"));
        assert!(refusal(4).starts_with("activate table ip6 own: "));
        for of_no_step in [0, 5, u32::MAX] {
            assert!(refusal(of_no_step).starts_with("No such file"), "{of_no_step}");
        }
    }
}

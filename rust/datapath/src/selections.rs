//! Selections of flows, of which the kernel is asked as seldom as can be.

use std::collections::{HashMap, HashSet};

use kbe_nat_netlink::conntrack::Selection;

/// Each selection once. Where many are of one family and protocol, one selection takes their place,
/// of all flows of that protocol: the kernel passes over all flows for each selection.
pub(crate) fn merge(selections: &[Selection]) -> Vec<Selection> {
    let all_of = |selection: &Selection| Selection { destination: None, ..*selection };
    let each: HashSet<Selection> = selections.iter().copied().collect();
    let mut counts: HashMap<Selection, usize> = HashMap::new();
    for selection in &each {
        *counts.entry(all_of(selection)).or_default() += 1;
    }
    let is_many =
        |selection: &Selection| counts.get(&all_of(selection)).is_some_and(|&count| count > FEW);
    let merged: HashSet<Selection> = each
        .iter()
        .map(|selection| if is_many(selection) { all_of(selection) } else { *selection })
        .collect();
    merged.into_iter().collect()
}

/// So many passes of the kernel over its flows cost less than a dump of all flows of a protocol.
const FEW: usize = 8;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use kbe_nat_netlink::Family;

    use super::*;

    #[test]
    fn many_frontends_of_a_protocol_are_resynced_in_one_pass() {
        let to = |text: &str, protocol: u8| {
            let destination: SocketAddr = text.parse().expect("an address");
            Selection { protocol, family: Family::of(&destination), destination: Some(destination) }
        };
        let few: Vec<_> = (0..FEW).map(|port| to(&format!("10.0.0.1:{}", port + 1), 17)).collect();
        let mut twice = few.clone();
        twice.extend(&few);
        let sorted = |selections: &[Selection]| {
            let mut merged = merge(selections);
            merged.sort_unstable_by_key(|selection| {
                (selection.protocol, selection.family, selection.destination)
            });
            merged
        };
        assert_eq!(sorted(&twice), few, "each once");
        twice.push(to("10.0.0.2:1", 17));
        twice.push(to("10.0.0.2:1", 6));
        twice.push(to("[fd00::2]:1", 17));
        let all = Selection { protocol: 17, family: Family::V4, destination: None };
        assert_eq!(sorted(&twice), [to("10.0.0.2:1", 6), all, to("[fd00::2]:1", 17)]);
        assert_eq!(merge(&[]), []);
    }
}

//! Devices, filters and queues of a network namespace of its own, where the kernel lets us have one.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;

use kbe_nat_netlink::links::Links;

/// As root: a namespace that has other ends of pairs, and one with the devices that are asked about.
const DEVICES: &str = "
set -e
unshare --net sleep 60 & other=$!
trap 'kill $other' EXIT
until [ \"$(readlink /proc/$other/ns/net)\" != \"$(readlink /proc/self/ns/net)\" ]; do :; done
pod() { ip link add $1 type veth peer name eth0 netns $other; ip link set $1 up
        nsenter --net=/proc/$other/ns/net ip link set eth0 name of-$1 up; }
filter() { tc filter add dev $1 parent $2 protocol ip u32 match u32 0 0 classid 1:1; }
pod free
pod policed; tc qdisc add dev policed clsact; filter policed ffff:fff2
pod bare; tc qdisc add dev bare clsact
pod marked; tc qdisc add dev marked clsact; filter marked ffff:fff3
pod old; tc qdisc add dev old ingress; filter old ffff:
pod slow; tc qdisc add dev slow root tbf rate 1mbit burst 10k latency 1ms
pod closed; nsenter --net=/proc/$other/ns/net ip link set of-closed down
ip link add here type veth peer name there; ip link set here up; ip link set there up
ip link add bridge type bridge
\"$@\"
";
const INSIDE: &str = "KBE_NAT_LINKS_TEST";

#[test]
fn filters_queues_and_pairs_are_told() {
    if std::env::var_os(INSIDE).is_some() {
        return check();
    }
    let allowed = Command::new("unshare").args(["--net", "ip", "link"]).output();
    if !allowed.is_ok_and(|done| done.status.success()) {
        return eprintln!("skipped: not root, or no unshare");
    }
    let words = ["--net", "--", "sh", "-c", DEVICES, "sh"];
    let test = std::env::current_exe().unwrap();
    let done = Command::new("unshare").args(words).arg(test).env(INSIDE, "1").output().unwrap();
    let [said, complained] =
        [done.stdout, done.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(done.status.success(), "{said}{complained}");
}

fn check() {
    let links = Links::open().unwrap().all().unwrap();
    let names = std::fs::read_to_string("/proc/self/net/dev").unwrap();
    let link = |name: &str| {
        assert!(names.contains(&format!("{name}:")), "{names}");
        let number = Command::new("ip").args(["-o", "link", "show", name]).output().unwrap();
        let number = String::from_utf8(number.stdout).unwrap();
        let number: u32 = number.split(':').next().unwrap().parse().unwrap();
        links[&number].clone()
    };
    let up = (libc::IFF_UP | libc::IFF_LOWER_UP) as u32;
    for (name, has_ingress_filters, is_shaped) in [
        ("free", false, false),
        ("policed", true, false),
        ("bare", false, false),
        ("marked", false, true),
        ("old", true, false),
        ("slow", false, true),
    ] {
        let link = link(name);
        assert_eq!((link.kind.as_str(), link.leads_elsewhere), ("veth", true), "{name}");
        assert_eq!(
            (link.has_ingress_filters, link.is_shaped),
            (has_ingress_filters, is_shaped),
            "{name}"
        );
        assert_eq!(link.flags & up, up, "{name}");
    }
    assert_eq!(link("closed").flags & up, libc::IFF_UP as u32, "its other end is down");
    let (here, bridge) = (link("here"), link("bridge"));
    assert_eq!((here.kind.as_str(), here.leads_elsewhere), ("veth", false));
    assert_eq!(bridge.kind, "bridge");
}

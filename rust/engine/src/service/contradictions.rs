//! What a program that writes a service port by hand cannot mean. The API server takes all of it,
//! and so do the tables: kube-proxy's rules have such endpoints, too.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use super::{Frontend, ServicePort, ServiceSpec};
use crate::backend::Backend;

/// A contradiction in a service port; `list` and `index` say where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Contradiction {
    /// Two backends of one list, or two frontends, are one.
    #[error("{list}[{index}] is {value}, as {list}[{first}] is: one of them is enough{advice}")]
    Duplicate {
        /// The list of both.
        list: &'static str,
        /// The later one's place.
        index: usize,
        /// The earlier one's place.
        first: usize,
        /// Both.
        value: String,
        /// What may have been meant.
        advice: &'static str,
    },
    /// A backend is a frontend of the same service port.
    #[error("{list}[{index}] is {address}, which is a frontend itself: packets would come back")]
    Loop {
        /// The backend's list.
        list: &'static str,
        /// Its place.
        index: usize,
        /// Its address.
        address: SocketAddr,
    },
    /// A backend on loopback for clients that are not.
    #[error(
        "{list}[{index}] is {address}: the kernel sends nothing to loopback that came for \
         {frontend}"
    )]
    Loopback {
        /// The backend's list.
        list: &'static str,
        /// Its place.
        index: usize,
        /// Its address.
        address: SocketAddr,
        /// An address of a frontend that is not on loopback.
        frontend: IpAddr,
    },
}

impl ServiceSpec {
    /// Looks for what contradicts itself. Cost: linear in frontends and backends.
    ///
    /// # Errors
    /// The first [`Contradiction`].
    pub fn check(&self) -> Result<(), Contradiction> {
        check(&self.frontends, [&self.cluster_backends, &self.local_backends])
    }
}

impl ServicePort {
    /// As [`ServiceSpec::check`].
    ///
    /// # Errors
    /// The first [`Contradiction`].
    pub fn check(&self) -> Result<(), Contradiction> {
        check(&self.spec.frontends, [self.sets[0].backends(), self.sets[1].backends()])
    }
}

fn check(frontends: &[Frontend], lists: [&[Backend]; 2]) -> Result<(), Contradiction> {
    // Of two kinds of frontend with one address the first counts: Services have such, where an
    // external IP is a load balancer's, too.
    distinct("frontends", frontends.iter().copied(), "", |frontend| match frontend.address {
        Some(address) => SocketAddr::new(address, frontend.port).to_string(),
        None => format!("node port {}", frontend.port),
    })?;
    let addresses = frontends.iter().filter_map(|frontend| frontend.address);
    for (list, backends) in ["cluster_backends", "local_backends"].into_iter().zip(lists) {
        let advice = "; its weight says how much it gets";
        let all = backends.iter().map(|backend| backend.address);
        distinct(list, all.clone(), advice, SocketAddr::to_string)?;
        for (index, address) in all.enumerate() {
            let is_frontend = |frontend: &Frontend| {
                (frontend.address, frontend.port) == (Some(address.ip()), address.port())
            };
            if frontends.iter().any(is_frontend) {
                return Err(Contradiction::Loop { list, index, address });
            }
            // That a service port has two families is an error of its own.
            let is_beyond = |frontend: &IpAddr| {
                !frontend.is_loopback() && frontend.is_ipv4() == address.is_ipv4()
            };
            if let (true, Some(frontend)) =
                (address.ip().is_loopback(), addresses.clone().find(is_beyond))
            {
                return Err(Contradiction::Loopback { list, index, address, frontend });
            }
        }
    }
    Ok(())
}

fn distinct<T: Copy + Eq + Hash>(
    list: &'static str,
    items: impl Iterator<Item = T>,
    advice: &'static str,
    show: impl Fn(&T) -> String,
) -> Result<(), Contradiction> {
    let mut places = HashMap::new();
    for (index, item) in items.enumerate() {
        if let Some(first) = places.insert(item, index) {
            return Err(Contradiction::Duplicate {
                list,
                index,
                first,
                value: show(&item),
                advice,
            });
        }
    }
    Ok(())
}

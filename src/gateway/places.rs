//! How many sockets there are: of the node, and of each peer address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::limits::GatewayLimits;
use crate::telemetry::{Limit, Metrics};

/// The places of a node's sockets.
pub struct Places {
    limits: GatewayLimits,
    metrics: Arc<Metrics>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: u32,
    by_address: HashMap<IpAddr, u32>,
}

/// One place; given back when dropped.
pub struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    pub fn new(limits: GatewayLimits, metrics: Arc<Metrics>) -> Places {
        Places {
            limits,
            metrics,
            taken: Mutex::default(),
        }
    }

    /// Takes a place for a client at `address`.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
    pub fn take(self: &Arc<Places>, address: IpAddr) -> Result<Place, Limit> {
        let address = network_of(address);
        let mut taken = self.taken();
        let taken = &mut *taken;
        if taken.all >= self.limits.connections_max {
            return Err(Limit::Connections);
        }
        let of_address = taken.by_address.entry(address).or_default();
        if *of_address >= self.limits.address_connections_max {
            return Err(Limit::AddressConnections);
        }
        *of_address += 1;
        taken.all += 1;
        self.metrics.connection_opened();
        Ok(Place {
            places: Arc::clone(self),
            address,
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Some(of_address) = taken.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.by_address.remove(&self.address);
            }
        }
        self.places.metrics.connection_closed();
    }
}

/// What counts as one peer: an IPv4 address, or the /64 network that an IPv6 client has for itself.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(all: u32, of_address: u32) -> Arc<Places> {
        let limits = GatewayLimits {
            connections_max: all,
            address_connections_max: of_address,
            connects_per_second: 1,
        };
        Arc::new(Places::new(limits, Arc::new(Metrics::new())))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let places = places(3, 2);
        let first = places.take(address("10.0.0.1")).unwrap();
        let _second = places.take(address("::ffff:10.0.0.1")).unwrap();
        let refused = |text: &str| places.take(address(text)).err();
        assert_eq!(refused("10.0.0.1"), Some(Limit::AddressConnections));
        let third = places.take(address("10.0.0.2")).unwrap();
        assert_eq!(refused("10.0.0.3"), Some(Limit::Connections));
        drop((first, third));
        assert_eq!(places.taken().by_address.len(), 1);
        assert_eq!(refused("10.0.0.1"), None);
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let places = places(10, 1);
        let _first = places.take(address("2001:db8::1")).unwrap();
        assert!(places.take(address("2001:db8::ffff")).is_err());
        assert!(places.take(address("2001:db8:0:1::1")).is_ok());
    }
}

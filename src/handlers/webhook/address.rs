//! Which addresses a webhook may reach.
//!
//! An event handler acts with the rights of the daemon's host: what only that host can reach
//! (its own services, its network, the metadata service of a cloud) is not for whoever can
//! name a URL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Everybody.
    Public,
    /// This host or its network: where the handler says so.
    Private,
    /// Nobody whom a webhook may reach, whatever the handler says.
    Never,
}

/// Cloud metadata and host services outside of the link-local range.
const METADATA_V4: [Ipv4Addr; 2] = [
    Ipv4Addr::new(100, 100, 100, 200), // Alibaba
    Ipv4Addr::new(168, 63, 129, 16),   // Azure
];
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254); // AWS
const METADATA_GOOGLE: Ipv6Addr = Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254);

/// Classifies `address`.
pub(super) fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    let [a, b, c, _] = address.octets();
    if METADATA_V4.contains(&address) {
        return Reach::Never;
    }
    match (a, b, c) {
        // This network, link-local, protocol assignments (Oracle's metadata among them),
        // 6to4 relays, documentation.
        (0, _, _) | (169, 254, _) | (192, 0, 0) | (192, 88, 99) => Reach::Never,
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => Reach::Never,
        // Multicast, reserved, broadcast.
        (224.., _, _) => Reach::Never,
        (10 | 127, _, _) | (172, 16..=31, _) | (192, 168, _) => Reach::Private,
        // Behind a carrier's NAT, and benchmarks within a network.
        (100, 64..=127, _) | (198, 18..=19, _) => Reach::Private,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    let segments = address.segments();
    if address == METADATA_V6 || address == METADATA_GOOGLE {
        return Reach::Never;
    }
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 1] | [0xfc00..=0xfdff, ..] => Reach::Private,
        // The way of IPv6-only networks to IPv4.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            reach_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Teredo and other assignments, documentation, 6to4: other addresses in disguise.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x2002, ..] | [0x3fff, ..] => Reach::Never,
        [0x2000..=0x3fff, ..] => Reach::Public,
        // IPv4 in disguise, link-local, site-local, multicast, and what nobody was given.
        _ => Reach::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_everybody_can_reach_is_public() {
        let table = [
            (
                Reach::Public,
                "1.1.1.1 93.184.216.34 172.15.0.1 172.32.0.1 100.63.0.1 2606:4700::1 64:ff9b::808:808 2a00:1450:4001::200e",
            ),
            (
                Reach::Private,
                "127.0.0.1 127.255.0.1 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 198.18.0.1 ::1 fc00::1 fd12::1 64:ff9b::7f00:1",
            ),
            (
                Reach::Never,
                "0.0.0.0 0.1.2.3 169.254.169.254 169.254.0.1 192.0.0.192 100.100.100.200 168.63.129.16 224.0.0.1 240.0.0.1 255.255.255.255 192.0.2.1",
            ),
            (
                Reach::Never,
                ":: fe80::1 fec0::1 ff02::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:1.1.1.1 ::127.0.0.1 fd00:ec2::254 fd20:ce::254 2002:7f00:1:: 2001::1 2001:db8::1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 4000::1",
            ),
        ];
        for (expected, addresses) in table {
            for address in addresses.split(' ') {
                assert_eq!(reach(address.parse().unwrap()), expected, "{address}");
            }
        }
    }
}

//! The network links of the machine, as sysfs shows them.

use std::fs;
use std::path::Path;

use zstrap_formats::network::LinkName;

/// Where the kernel shows its links.
const SYS_NET: &str = "/sys/class/net";
/// `ARPHRD_ETHER`: Ethernet and what looks like it.
const ETHERNET: &str = "1";
/// The flag of a link that was brought up (netdevice(7)).
const IFF_UP: u32 = 1;

/// An Ethernet link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Name, such as `eth0`.
    pub name: String,
    /// Index by which the kernel knows it.
    pub index: u32,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Whether it is part of a bond.
    pub has_master: bool,
}

impl Link {
    /// All Ethernet links there are, by index: the order in which the kernel found them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let names = fs::read_dir(SYS_NET).into_iter().flatten().flatten();
        let mut links: Vec<Self> =
            names.filter_map(|entry| Self::read(entry.file_name().to_str()?)).collect();
        links.sort_by_key(|link| link.index);
        links
    }

    /// The index of a link by its name.
    #[must_use]
    pub fn index_of(name: &str) -> Option<u32> {
        fs::read_to_string(Path::new(SYS_NET).join(name).join("ifindex")).ok()?.trim().parse().ok()
    }

    /// The Ethernet link of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::read(name)
    }

    /// The Ethernet link that had this index and this name: the one with the index, whose name may have changed (udev);
    /// else the one with the name, which may be an adapter that was plugged in again.
    #[must_use]
    pub fn found_again(index: u32, name: &str) -> Option<Self> {
        again(index, Self::named(name), Self::all)
    }

    fn read(name: &str) -> Option<Self> {
        let link = Path::new(SYS_NET).join(name);
        let text = |file: &str| fs::read_to_string(link.join(file)).ok().map(|text| text.trim().to_owned());
        if text("type")? != ETHERNET {
            return None;
        }
        Some(Self {
            name: name.to_owned(),
            index: text("ifindex")?.parse().ok()?,
            mac: parse_mac(&text("address")?)?,
            has_master: link.join("master").exists(),
        })
    }

    /// Whether a cable with someone at its other end is plugged in. A link that is down says nothing, which is
    /// no carrier.
    #[must_use]
    pub fn has_carrier(&self) -> bool {
        fs::read_to_string(Path::new(SYS_NET).join(&self.name).join("carrier"))
            .is_ok_and(|text| text.trim() == "1")
    }

    /// How often the carrier has come or gone since the link was made: a cable that was out for less time than it takes
    /// to look is seen here.
    #[must_use]
    pub fn carrier_changes(&self) -> u64 {
        let path = Path::new(SYS_NET).join(&self.name).join("carrier_changes");
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Whether a device stands behind it, and not the kernel alone as behind bridges, VLANs and tunnels.
    #[must_use]
    pub fn is_card(&self) -> bool {
        Path::new(SYS_NET).join(&self.name).join("device").exists()
    }

    /// Whether it was brought up, with a carrier or without.
    #[must_use]
    pub fn is_up(&self) -> bool {
        let flags = fs::read_to_string(Path::new(SYS_NET).join(&self.name).join("flags")).unwrap_or_default();
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
        flags & IFF_UP != 0
    }

    /// Whether this is the link that a person means.
    #[must_use]
    pub fn is(&self, name: &LinkName) -> bool {
        match name {
            LinkName::Name(name) => self.name == *name,
            LinkName::Mac(mac) => self.mac == *mac,
        }
    }

    /// The hardware address as text.
    #[must_use]
    pub fn mac_text(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}

fn again(index: u32, named: Option<Link>, all: impl FnOnce() -> Vec<Link>) -> Option<Link> {
    // Nearly always it is the same, and a machine with containers has many links to look through.
    if named.as_ref().is_some_and(|link| link.index == index) {
        return named;
    }
    all().into_iter().find(|link| link.index == index).or(named)
}

/// Six hexadecimal bytes; all zeros is no address of anyone.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    if parts.next().is_some() || mac == [0; 6] { None } else { Some(mac) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, index: u32) -> Link {
        Link { name: name.to_owned(), index, mac: [2, 0, 0, 0, 0, 1], has_master: false }
    }

    #[test]
    fn a_link_that_was_renamed_was_taken_for_one_that_is_gone() {
        let renamed = || vec![link("eth1", 1), link("enp1s0", 2)];
        assert_eq!(again(2, None, renamed), Some(link("enp1s0", 2)));
        // Two have changed their names with each other.
        assert_eq!(again(2, Some(link("eth0", 1)), renamed), Some(link("enp1s0", 2)));
    }

    #[test]
    fn an_adapter_that_was_plugged_in_again_is_known_by_its_name() {
        let plugged_in = || vec![link("eth1", 1), link("eth0", 7)];
        assert_eq!(again(2, Some(link("eth0", 7)), plugged_in), Some(link("eth0", 7)));
        assert_eq!(again(2, None, plugged_in), None);
        assert_eq!(again(7, Some(link("eth0", 7)), || panic!("looked at all")), Some(link("eth0", 7)));
    }

    #[test]
    fn hardware_addresses_have_six_bytes() {
        assert_eq!(parse_mac("52:54:00:12:34:56"), Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        for bad in ["", "00:00:00:00:00:00", "52:54:00:12:34", "52:54:00:12:34:56:78", "x2:54:00:12:34:56"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}

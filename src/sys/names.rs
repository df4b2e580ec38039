//! Names to addresses, one family at a time.
//!
//! The resolver of libc asks for both families at once, and musl's takes a refusal of one for the failure of both:
//! a name server that knows IPv4 only, and says so by refusing, would keep a node from its server.

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr;

use nix::libc;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// More addresses of one name than anyone tries.
const MAX_ADDRESSES: usize = 8;

/// Asks for both families at once; if that fails, for one after the other. Waits are those of resolv.conf(5).
#[derive(Debug, Default)]
pub struct EachFamily(DefaultResolver);

impl Resolver for EachFamily {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        self.0.resolve(uri, config, timeout).or_else(|error| {
            let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
            let found = uri.host().map(one_by_one).unwrap_or_default();
            let mut addresses = self.empty();
            found
                .into_iter()
                .take(MAX_ADDRESSES)
                .for_each(|address| addresses.push(SocketAddr::new(address, port)));
            if addresses.is_empty() { Err(error) } else { Ok(addresses) }
        })
    }
}

fn one_by_one(host: &str) -> Vec<IpAddr> {
    let mut found = addresses(host, libc::AF_INET);
    if found.is_empty() {
        found = addresses(host, libc::AF_INET6);
    }
    found
}

/// The addresses of one family (getaddrinfo(3)); none when there are none, or nobody says.
fn addresses(host: &str, family: libc::c_int) -> Vec<IpAddr> {
    let Ok(host) = CString::new(host) else { return Vec::new() };
    // SAFETY: all zeros is a valid addrinfo: numbers, and pointers that are null.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    (hints.ai_family, hints.ai_socktype) = (family, libc::SOCK_STREAM);
    let mut list = ptr::null_mut();
    // SAFETY: the name ends with a NUL, hints and result outlive the call.
    if unsafe { libc::getaddrinfo(host.as_ptr(), ptr::null(), &raw const hints, &raw mut list) } != 0 {
        return Vec::new();
    }
    let (mut found, mut entry) = (Vec::new(), list);
    while !entry.is_null() {
        // SAFETY: getaddrinfo succeeded, so each entry up to the null one is valid until freeaddrinfo below.
        let current = unsafe { &*entry };
        // SAFETY: ai_addr is valid with ai_family, as the entry is.
        found.extend(unsafe { address_of(current) });
        entry = current.ai_next;
    }
    // SAFETY: the list is the one of getaddrinfo, and nothing of it is used after this.
    unsafe { libc::freeaddrinfo(list) };
    found
}

/// # Safety
/// `entry.ai_addr` points to a socket address of the family that the entry names.
unsafe fn address_of(entry: &libc::addrinfo) -> Option<IpAddr> {
    match entry.ai_family {
        libc::AF_INET => {
            // SAFETY: by the contract of this function; read unaligned, as sockaddr has less alignment.
            let address = unsafe { entry.ai_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { entry.ai_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_hosts_file_has_its_address() {
        assert_eq!(addresses("127.0.0.1", libc::AF_INET), [IpAddr::from([127, 0, 0, 1])]);
        assert_eq!(addresses("::1", libc::AF_INET6), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        assert!(addresses("127.0.0.1", libc::AF_INET6).is_empty());
        assert!(addresses("no\0name", libc::AF_INET).is_empty());
    }
}

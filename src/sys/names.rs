//! Names to addresses, in bounded time.
//!
//! In: the host of a URL, and how long to wait. Out: its addresses. The resolver of libc asks for both families at
//! once, and musl's takes a refusal of one for the failure of both, after 5 s: a name server that knows IPv4 only, and
//! says so by refusing, would keep a node from its server. So each family is soon asked for alone, too. Failure: the name has no address, or nobody says in time.

use std::ffi::CString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::ptr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// More addresses of one name than anyone tries, and no more than the HTTP library takes.
const MAX_ADDRESSES: usize = 16;

/// How long the answer for both families is waited for before each is asked for alone, too.
const BOTH: Duration = Duration::from_millis(250);

/// Asks for both families at once; unless that is soon answered, for each alone. The first answer with an address counts.
#[derive(Debug)]
pub struct EachFamily;

/// That there is no address, told apart from all else that can keep a connection from being made.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NoSuchName(io::Error);

impl Resolver for EachFamily {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let parts = uri.scheme().zip(uri.authority());
        let place = parts
            .and_then(|(scheme, authority)| DefaultResolver::host_and_port(scheme, authority))
            .ok_or_else(|| ureq::Error::BadUri(uri.to_string()))?;
        let found = look_up(&place, *timeout.after, ask_libc).map_err(|none| match none {
            NoAddress::Failed(error) => ureq::Error::Io(io::Error::other(NoSuchName(error))),
            NoAddress::Late => ureq::Error::Timeout(timeout.reason),
        })?;
        let mut addresses = self.empty();
        found.into_iter().take(MAX_ADDRESSES).for_each(|address| addresses.push(address));
        Ok(addresses)
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Any,
    V4,
    V6,
}

/// Looks up the host of `HOST:PORT`; what is found is not empty. It may take as long as it likes.
type Ask = fn(&str, Family) -> io::Result<Vec<SocketAddr>>;

/// Why there is no address.
#[derive(Debug)]
enum NoAddress {
    Failed(io::Error),
    Late,
}

fn look_up(place: &str, within: Duration, ask: Ask) -> Result<Vec<SocketAddr>, NoAddress> {
    if let Ok(address) = place.parse() {
        return Ok(vec![address]);
    }
    let (begun, (sender, answers)) = (Instant::now(), mpsc::channel());
    let ask_for = |family| {
        let (place, sender) = (place.to_owned(), sender.clone());
        // Not waited for beyond its time: getaddrinfo(3) cannot be interrupted. It ends as resolv.conf(5) says.
        let spawned = thread::Builder::new().spawn(move || sender.send(ask(&place, family)));
        spawned.map(drop).map_err(NoAddress::Failed)
    };
    ask_for(Family::Any)?;
    // What was said at first tells more than what is said later, or that there was no time.
    let mut failure = None;
    match answers.recv_timeout(within.min(BOTH)) {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(error)) => failure = Some(error),
        Err(_) => {}
    }
    // At the same time, so that one that is refused does not use up the time of the other.
    ask_for(Family::V4)?;
    ask_for(Family::V6)?;
    drop(sender);
    loop {
        match answers.recv_timeout(within.saturating_sub(begun.elapsed())) {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => drop(failure.get_or_insert(error)),
            Err(_) => return Err(failure.map_or(NoAddress::Late, NoAddress::Failed)),
        }
    }
}

fn ask_libc(place: &str, family: Family) -> io::Result<Vec<SocketAddr>> {
    let found = match family {
        Family::Any => place.to_socket_addrs()?.collect(),
        Family::V4 => of_family(place, libc::AF_INET),
        Family::V6 => of_family(place, libc::AF_INET6),
    };
    if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
}

fn of_family(place: &str, family: libc::c_int) -> Vec<SocketAddr> {
    let Some((host, port)) = place.rsplit_once(':') else { return Vec::new() };
    let Ok(port) = port.parse() else { return Vec::new() };
    addresses(host, family).into_iter().map(|address| SocketAddr::new(address, port)).collect()
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

    /// Longer than a test waits.
    const HANG: Duration = Duration::from_secs(60);
    const SOON: Duration = Duration::from_millis(300);

    fn refused() -> io::Result<Vec<SocketAddr>> {
        Err(io::Error::other("refused"))
    }

    fn hang() -> io::Result<Vec<SocketAddr>> {
        thread::sleep(HANG);
        refused()
    }

    fn one(address: &str) -> Vec<SocketAddr> {
        vec![address.parse().expect("an address")]
    }

    #[test]
    fn an_address_is_not_looked_up() {
        let ask: Ask = |_, _| unreachable!("nobody is asked");
        for address in ["192.0.2.1:80", "[2001:db8::1]:8080"] {
            assert_eq!(look_up(address, SOON, ask).expect("an address"), one(address));
        }
        let local = ask_libc("localhost:80", Family::Any).expect("the host knows itself");
        assert!(local.iter().all(|address| address.ip().is_loopback() && address.port() == 80));
    }

    #[test]
    fn a_refusal_of_one_family_does_not_use_up_the_time_of_the_other() {
        let only_4: Ask = |_, family| match family {
            Family::Any => refused(),
            Family::V4 => Ok(one("192.0.2.1:80")),
            Family::V6 => hang(),
        };
        let only_6: Ask = |_, family| match family {
            Family::Any | Family::V4 => only_after(SOON / 4),
            Family::V6 => Ok(one("[2001:db8::1]:80")),
        };
        assert_eq!(look_up("boot.test:80", HANG, only_4).expect("IPv4"), one("192.0.2.1:80"));
        assert_eq!(look_up("boot.test:80", HANG, only_6).expect("IPv6"), one("[2001:db8::1]:80"));
    }

    fn only_after(pause: Duration) -> io::Result<Vec<SocketAddr>> {
        thread::sleep(pause);
        refused()
    }

    #[test]
    fn each_connection_waited_until_musl_gave_up_a_family_that_was_refused() {
        let ask: Ask = |_, family| if family == Family::V4 { Ok(one("192.0.2.1:80")) } else { hang() };
        let begun = Instant::now();
        assert_eq!(look_up("boot.test:80", HANG, ask).expect("IPv4"), one("192.0.2.1:80"));
        assert!(begun.elapsed() < HANG / 10);
    }

    #[test]
    fn a_second_look_up_went_on_beyond_the_time_of_both() {
        let ask: Ask = |_, family| if family == Family::Any { only_after(SOON / 3) } else { hang() };
        let begun = Instant::now();
        let none = look_up("boot.test:80", SOON, ask).expect_err("nobody says");
        assert!(matches!(none, NoAddress::Failed(error) if error.to_string() == "refused"));
        assert!(begun.elapsed() < HANG / 10);
    }

    #[test]
    fn nobody_said_anything_in_time() {
        assert!(matches!(look_up("boot.test:80", SOON, |_, _| hang()), Err(NoAddress::Late)));
    }
}

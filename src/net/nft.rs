//! The packet filter of a debug session: one table of nf_tables, loaded over nfnetlink.
//!
//! In: the overlay's interface, a port, and the networks that may connect. Out: the bytes of one batch, which the
//! kernel takes as a whole or not at all; then its acknowledgements. Failure: the kernel's errno; no rule of the batch
//! is in effect then. Rules name the interface, so they wait for one that comes later or comes again.
//!
//! What `nft list ruleset` says of it stands in docs/debug.md. The numbers are those of
//! linux/netfilter/nf_tables.h and nfnetlink.h; what is not of netlink itself is big-endian.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd as _;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use zstrap_formats::config::Network;

use super::netlink::Message;

/// The name of our table, of family `inet`.
pub const TABLE: &str = "zstrap";
/// All addresses of the overlay network: mycelium gives nodes nothing else, and nobody else has them.
pub const OVERLAY: Network =
    Network { address: IpAddr::V6(Ipv6Addr::new(0x400, 0, 0, 0, 0, 0, 0, 0)), prefix: 7 };

/// Whether an address is one of [`OVERLAY`].
#[must_use]
pub fn is_overlay(address: Ipv6Addr) -> bool {
    address.octets()[0] & 0xfe == 0x04
}

const NLMSG_ERROR: u16 = 2;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_IN: u32 = 1;
const NF_INET_LOCAL_OUT: u32 = 3;
/// Before anything else looks at a packet.
const PRIORITY_RAW: i32 = -300;
const PRIORITY_FILTER: i32 = 0;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const IPPROTO_TCP: u8 = 6;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFTA_EXTHDR_DREG: u16 = 1;
const NFTA_EXTHDR_TYPE: u16 = 2;
const NFTA_EXTHDR_OFFSET: u16 = 3;
const NFTA_EXTHDR_LEN: u16 = 4;
const NFTA_EXTHDR_FLAGS: u16 = 5;
const NFT_EXTHDR_F_PRESENT: u32 = 1;
const IPPROTO_FRAGMENT: u8 = 44;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
/// Names of interfaces are compared with all their zeros, or a longer name would match, too.
const IFNAMSIZ: usize = 16;

/// Which side of a packet.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// Which way a packet goes, seen from the node.
#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

/// The batch that loads the table, in place of one that an earlier attempt has left.
#[must_use]
pub fn allow_list(interface: &str, port: u16, allow: &[Network]) -> Vec<u8> {
    let mut batch = begin();
    batch.extend(table(NFT_MSG_NEWTABLE));
    batch.extend(chain("overlay", NF_INET_PRE_ROUTING, PRIORITY_RAW));
    for side in [Side::Source, Side::Destination] {
        batch.extend(rule("overlay", NF_DROP, |rule| {
            // The node reaches its own address through lo.
            rule.interface(Way::In, "lo", NFT_CMP_NEQ);
            rule.interface(Way::In, interface, NFT_CMP_NEQ);
            rule.network(side, &OVERLAY);
        }));
    }
    // Of a packet in fragments, the first may end before the port, and the rest has none: it would pass the rules on ports,
    // and be put together after them. Whatever gets in all the same gets no answer out.
    for (name, hook, way) in [("debug", NF_INET_LOCAL_IN, Way::In), ("answers", NF_INET_LOCAL_OUT, Way::Out)]
    {
        batch.extend(chain(name, hook, PRIORITY_FILTER));
        if matches!(way, Way::In) {
            batch.extend(rule(name, NF_DROP, |rule| {
                rule.interface(way, interface, NFT_CMP_EQ);
                rule.fragment();
            }));
        }
        let far = if matches!(way, Way::In) { Side::Source } else { Side::Destination };
        for network in allow {
            batch.extend(rule(name, NF_ACCEPT, |rule| {
                rule.interface(way, interface, NFT_CMP_EQ);
                rule.network(far, network);
                rule.tcp_port(way, port);
            }));
        }
        batch.extend(rule(name, NF_DROP, |rule| rule.tcp_port(way, port)));
    }
    batch.extend(batch_end(NFNL_MSG_BATCH_END));
    batch
}

/// The batch after which there is no table.
#[must_use]
pub fn nothing() -> Vec<u8> {
    [begin(), batch_end(NFNL_MSG_BATCH_END)].concat()
}

fn begin() -> Vec<u8> {
    // What is not there cannot be deleted, so it is made first.
    [batch_end(NFNL_MSG_BATCH_BEGIN), table(NFT_MSG_NEWTABLE), table(NFT_MSG_DELTABLE)].concat()
}

/// Has the kernel take a batch.
///
/// # Errors
/// The first of the kernel's refusals: nothing of the batch is in effect then. Or that acknowledgements are missing: then
/// nobody knows, and [`nothing`] is to be loaded.
pub fn load(batch: &[u8]) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let protocol = Some(netlink::NETFILTER);
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    rustix::net::send(socket.as_fd(), batch, SendFlags::empty())?;
    let mut missing = demanded(batch);
    let mut answer = [0; 8192];
    // The kernel has answered when send returns: there is nothing to wait for.
    while missing > 0 {
        let (length, _) = match rustix::net::recv(socket.as_fd(), &mut answer, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => return Err(io::Error::other("the kernel did not take all rules")),
            received => received?,
        };
        missing = missing.saturating_sub(acknowledged(&answer[..length.min(answer.len())])?);
    }
    Ok(())
}

/// How many messages of a batch are answered: all between its two ends.
fn demanded(batch: &[u8]) -> usize {
    messages(batch).filter(|message| kind(message) > NFNL_MSG_BATCH_END).count()
}

/// How many acknowledgements came, if none is a refusal.
fn acknowledged(answer: &[u8]) -> io::Result<usize> {
    let mut count = 0;
    for message in messages(answer).filter(|message| kind(message) == NLMSG_ERROR) {
        // struct nlmsgerr: errno, negative; zero is success.
        let code: [u8; 4] = message.get(16..20).and_then(|code| code.try_into().ok()).unwrap_or([0xff; 4]);
        match i32::from_ne_bytes(code) {
            0 => count += 1,
            errno => return Err(io::Error::from_raw_os_error(-errno)),
        }
    }
    Ok(count)
}

/// The messages of a datagram, each with its head.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        let length = usize::try_from(u32::from_ne_bytes(length)).ok()?;
        let message = bytes.get(..length).filter(|_| length >= 16)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

fn kind(message: &[u8]) -> u16 {
    u16::from_ne_bytes([message[4], message[5]])
}

fn batch_end(kind: u16) -> Vec<u8> {
    let mut message = Message::new(kind, 0);
    // struct nfgenmsg: family, version, and here the subsystem.
    message.bytes.extend_from_slice(&[0, 0]);
    message.bytes.extend_from_slice(&NFNL_SUBSYS_NFTABLES.to_be_bytes());
    let mut bytes = message.finished();
    // Its flags without NLM_F_ACK: some kernels acknowledge the ends, others do not.
    bytes[6..8].copy_from_slice(&1u16.to_ne_bytes());
    bytes
}

fn new(kind: u16, flags: u16) -> Message {
    let mut message = Message::new(NFNL_SUBSYS_NFTABLES << 8 | kind, flags);
    message.bytes.extend_from_slice(&[NFPROTO_INET, 0, 0, 0]);
    message
}

fn table(kind: u16) -> Vec<u8> {
    let mut message = new(kind, NLM_F_CREATE);
    message.text(NFTA_TABLE_NAME, TABLE);
    message.finished()
}

/// A chain that lets pass what no rule of it drops: the table is about debugging, and nothing else.
fn chain(name: &str, hook: u32, priority: i32) -> Vec<u8> {
    let mut message = new(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
    message.text(NFTA_CHAIN_TABLE, TABLE);
    message.text(NFTA_CHAIN_NAME, name);
    message.nested(NFTA_CHAIN_HOOK, |data| {
        data.number(NFTA_HOOK_HOOKNUM, hook);
        data.attribute(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
    });
    message.number(NFTA_CHAIN_POLICY, NF_ACCEPT);
    message.text(NFTA_CHAIN_TYPE, "filter");
    message.finished()
}

/// A rule with its verdict. What is dropped is counted: an admin sees who knocks.
fn rule(chain: &str, verdict: u32, matches: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = new(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
    message.text(NFTA_RULE_TABLE, TABLE);
    message.text(NFTA_RULE_CHAIN, chain);
    message.nested(NFTA_RULE_EXPRESSIONS, |rule| {
        matches(rule);
        if verdict == NF_DROP {
            rule.expression("counter", |_| {});
        }
        rule.expression("immediate", |data| {
            data.number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
            data.nested(NFTA_IMMEDIATE_DATA, |data| {
                data.nested(NFTA_DATA_VERDICT, |data| data.number(NFTA_VERDICT_CODE, verdict));
            });
        });
    });
    message.finished()
}

impl Message {
    fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat());
    }

    fn number(&mut self, kind: u16, number: u32) {
        self.attribute(kind, &number.to_be_bytes());
    }

    fn value(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |data| data.attribute(NFTA_DATA_VALUE, value));
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.nested(NFTA_LIST_ELEM, |element| {
            element.text(NFTA_EXPR_NAME, name);
            element.nested(NFTA_EXPR_DATA, fill);
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expression("cmp", |data| {
            data.number(NFTA_CMP_SREG, NFT_REG_1);
            data.number(NFTA_CMP_OP, operator);
            data.value(NFTA_CMP_DATA, value);
        });
    }

    fn meta(&mut self, key: u32, operator: u32, value: &[u8]) {
        self.expression("meta", |data| {
            data.number(NFTA_META_KEY, key);
            data.number(NFTA_META_DREG, NFT_REG_1);
        });
        self.compare(operator, value);
    }

    fn load(&mut self, base: u32, offset: u32, length: usize) {
        self.expression("payload", |data| {
            data.number(NFTA_PAYLOAD_DREG, NFT_REG_1);
            data.number(NFTA_PAYLOAD_BASE, base);
            data.number(NFTA_PAYLOAD_OFFSET, offset);
            data.number(NFTA_PAYLOAD_LEN, u32::try_from(length).unwrap_or(0));
        });
    }

    fn interface(&mut self, way: Way, name: &str, operator: u32) {
        let mut padded = name.as_bytes().to_vec();
        padded.resize(IFNAMSIZ, 0);
        let key = if matches!(way, Way::In) { NFT_META_IIFNAME } else { NFT_META_OIFNAME };
        self.meta(key, operator, &padded);
    }

    /// A part of an IPv6 packet: RFC 8200, section 4.5.
    fn fragment(&mut self) {
        self.meta(NFT_META_NFPROTO, NFT_CMP_EQ, &[NFPROTO_IPV6]);
        self.expression("exthdr", |data| {
            data.number(NFTA_EXTHDR_DREG, NFT_REG_1);
            data.attribute(NFTA_EXTHDR_TYPE, &[IPPROTO_FRAGMENT]);
            data.number(NFTA_EXTHDR_OFFSET, 0);
            data.number(NFTA_EXTHDR_LEN, 1);
            data.number(NFTA_EXTHDR_FLAGS, NFT_EXTHDR_F_PRESENT);
        });
        self.compare(NFT_CMP_EQ, &[1]);
    }

    /// Where the addresses stand in headers: RFC 791, RFC 8200.
    fn network(&mut self, side: Side, network: &Network) {
        let (protocol, address, source) = match network.address {
            IpAddr::V4(address) => (NFPROTO_IPV4, address.octets().to_vec(), 12),
            IpAddr::V6(address) => (NFPROTO_IPV6, address.octets().to_vec(), 8),
        };
        let length = address.len();
        let offset = match side {
            Side::Source => source,
            Side::Destination => source + u32::try_from(length).unwrap_or(0),
        };
        let mask = mask(network.prefix, length);
        let first: Vec<u8> = address.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
        self.meta(NFT_META_NFPROTO, NFT_CMP_EQ, &[protocol]);
        self.load(NFT_PAYLOAD_NETWORK_HEADER, offset, length);
        self.expression("bitwise", |data| {
            data.number(NFTA_BITWISE_SREG, NFT_REG_1);
            data.number(NFTA_BITWISE_DREG, NFT_REG_1);
            data.number(NFTA_BITWISE_LEN, u32::try_from(length).unwrap_or(0));
            data.value(NFTA_BITWISE_MASK, &mask);
            data.value(NFTA_BITWISE_XOR, &vec![0; length]);
        });
        self.compare(NFT_CMP_EQ, &first);
    }

    /// The node's port.
    fn tcp_port(&mut self, way: Way, port: u16) {
        self.meta(NFT_META_L4PROTO, NFT_CMP_EQ, &[IPPROTO_TCP]);
        self.load(NFT_PAYLOAD_TRANSPORT_HEADER, if matches!(way, Way::In) { 2 } else { 0 }, 2);
        self.compare(NFT_CMP_EQ, &port.to_be_bytes());
    }
}

/// The first `prefix` bits.
fn mask(prefix: u8, length: usize) -> Vec<u8> {
    let ones = |at: usize| u32::from(prefix).saturating_sub(8 * u32::try_from(at).unwrap_or(0)).min(8);
    (0..length).map(|at| !u8::MAX.checked_shr(ones(at)).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::thread::UnshareFlags;
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::os::fd::AsRawFd as _;
    use std::process::Command;
    use zstrap_formats::config::MAX_DEBUG_NETWORKS;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    /// What nft(8) reads back of a table that was loaded in a network of its own.
    fn read_back(batches: &[Vec<u8>]) -> String {
        std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                // SAFETY: this thread shares no network with others afterwards, and ends here.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
                for batch in batches {
                    load(batch).unwrap();
                }
                let output = Command::new("nft").args(["-nn", "list", "ruleset"]).output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                String::from_utf8(output.stdout).unwrap()
            });
            work.join().unwrap()
        })
    }

    const EXPECTED: &str = r#"table inet zstrap {
	chain overlay {
		type filter hook prerouting priority -300; policy accept;
		iifname != "lo" iifname != "mycelium" ip6 saddr 400::/7 counter packets 0 bytes 0 drop
		iifname != "lo" iifname != "mycelium" ip6 daddr 400::/7 counter packets 0 bytes 0 drop
	}

	chain debug {
		type filter hook input priority 0; policy accept;
		iifname "mycelium" exthdr frag 1 counter packets 0 bytes 0 drop
		iifname "mycelium" ip6 saddr 400:1::2 tcp dport 7681 accept
		iifname "mycelium" ip6 saddr 500:8000::/17 tcp dport 7681 accept
		iifname "mycelium" ip saddr 10.1.2.0/23 tcp dport 7681 accept
		tcp dport 7681 counter packets 0 bytes 0 drop
	}

	chain answers {
		type filter hook output priority 0; policy accept;
		oifname "mycelium" ip6 daddr 400:1::2 tcp sport 7681 accept
		oifname "mycelium" ip6 daddr 500:8000::/17 tcp sport 7681 accept
		oifname "mycelium" ip daddr 10.1.2.0/23 tcp sport 7681 accept
		tcp sport 7681 counter packets 0 bytes 0 drop
	}
}
"#;

    #[test]
    fn nft_reads_the_rules_that_were_meant() {
        let allow = [network("400:1::2"), network("500:ffff::1/17"), network("10.1.2.3/23")];
        let batch = allow_list("mycelium", 7681, &allow);
        // Twice: an attempt that failed later leaves its table to the next.
        assert_eq!(read_back(&[allow_list("other", 1, &[]), batch.clone(), batch.clone()]), EXPECTED);
        assert_eq!(read_back(&[nothing(), batch, nothing()]), "");
    }

    #[test]
    fn the_longest_list_is_taken() {
        let allow: Vec<Network> =
            (0..MAX_DEBUG_NETWORKS).map(|n| network(&format!("400:{n:x}::1"))).collect();
        let read = read_back(&[allow_list("mycelium", 7681, &allow)]);
        assert_eq!(read.matches(" accept\n").count(), 2 * allow.len());
    }

    #[test]
    fn a_refusal_leaves_no_rule() {
        let mut batch = allow_list("mycelium", 7681, &[network("400:1::2")]);
        // The last rule, in a chain that is not there.
        let at = batch.windows(8).rposition(|bytes| bytes == b"answers\0").unwrap();
        batch[at] = b'x';
        let thread = std::thread::spawn(move || {
            // SAFETY: as above.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let error = load(&batch).unwrap_err();
            let left = Command::new("nft").args(["list", "ruleset"]).output().unwrap().stdout;
            (error.raw_os_error(), left)
        });
        assert_eq!(thread.join().unwrap(), (Some(nix::libc::ENOENT), Vec::new()));
    }

    #[test]
    fn a_batch_that_is_cut_off_is_no_success() {
        let batch = allow_list("mycelium", 7681, &[network("400:1::2")]);
        assert_eq!(demanded(&batch), 13);
        assert_eq!(acknowledged(&[]).unwrap(), 0);
        let mut refusal = [0; 36];
        refusal[..4].copy_from_slice(&36u32.to_ne_bytes());
        refusal[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        assert_eq!(acknowledged(&refusal).unwrap(), 1);
        refusal[16..20].copy_from_slice(&(-1i32).to_ne_bytes());
        assert_eq!(acknowledged(&refusal).unwrap_err().raw_os_error(), Some(1));
    }

    const NODE: &str = "400:1::1";
    const ADMIN: &str = "400:1::2";
    const STRANGER: &str = "400:1::4";

    /// The other end of the overlay's interface, in a network of its own where somebody listens at the port.
    struct Overlay {
        tun: File,
        _listener: TcpListener,
    }

    impl Overlay {
        fn new() -> Self {
            // SAFETY: this thread shares no network with others afterwards, and ends after its test.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let tun = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
            // struct ifreq: the name, then IFF_TUN and IFF_NO_PI.
            let mut request = [0u8; 40];
            request[..8].copy_from_slice(b"mycelium");
            request[IFNAMSIZ..IFNAMSIZ + 2].copy_from_slice(&0x1001u16.to_ne_bytes());
            const TUNSETIFF: u32 = 0x4004_54ca;
            // SAFETY: the request is as long as a struct ifreq, and lives until the call is over.
            let made = unsafe { nix::libc::ioctl(tun.as_raw_fd(), TUNSETIFF.into(), request.as_mut_ptr()) };
            assert_eq!(made, 0, "{}", io::Error::last_os_error());
            std::fs::write("/proc/sys/net/ipv6/conf/mycelium/disable_ipv6", "0").unwrap();
            for words in ["link set mycelium up", &format!("addr add {NODE}/7 dev mycelium nodad")] {
                assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "{words}");
            }
            Self { tun, _listener: TcpListener::bind((NODE, 7681)).unwrap() }
        }

        fn send(&mut self, from: &str, next: u8, payload: &[u8]) {
            let addresses =
                [from, NODE].map(|address| address.parse::<Ipv6Addr>().unwrap().octets()).concat();
            let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
            let head = [0x60, 0, 0, 0, length[0], length[1], next, 64];
            self.tun.write_all(&[&head, addresses.as_slice(), payload].concat()).unwrap();
        }

        /// In two fragments: the first has eight bytes of an extension header and nothing of TCP.
        fn send_in_fragments(&mut self, from: &str) {
            const DESTINATION_OPTIONS: u8 = 60;
            let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
            let rest = [options(IPPROTO_TCP).as_slice(), &syn(from)].concat();
            let more = [DESTINATION_OPTIONS, 0, 0, 1, 0, 0, 0, 9];
            let last = [DESTINATION_OPTIONS, 0, 0, 8, 0, 0, 0, 9];
            self.send(from, IPPROTO_FRAGMENT, &[more, options(DESTINATION_OPTIONS)].concat());
            self.send(from, IPPROTO_FRAGMENT, &[last.as_slice(), &rest].concat());
        }

        /// Who gets the next answer from the port.
        fn answered(&mut self) -> String {
            let mut packet = [0; 2048];
            let limit = rustix::time::Timespec { tv_sec: 20, tv_nsec: 0 };
            loop {
                let mut ready = [rustix::event::PollFd::new(&self.tun, rustix::event::PollFlags::IN)];
                assert!(rustix::event::poll(&mut ready, Some(&limit)).unwrap() > 0, "nobody is answered");
                let length = self.tun.read(&mut packet).unwrap();
                if length > 42 && packet[6] == IPPROTO_TCP && packet[40..42] == 7681u16.to_be_bytes() {
                    let to: [u8; 16] = packet[24..40].try_into().unwrap();
                    return Ipv6Addr::from(to).to_string();
                }
            }
        }
    }

    /// The first segment of a connection, with its checksum: RFC 9293.
    fn syn(from: &str) -> Vec<u8> {
        let mut segment = [40_000u16, 7681, 0, 1, 0, 0, 0x5002, 64_000, 0, 0].map(u16::to_be_bytes).concat();
        let addresses = [from, NODE].map(|address| address.parse::<Ipv6Addr>().unwrap().octets()).concat();
        let all = [addresses.as_slice(), &[0, 20, 0, IPPROTO_TCP], &segment].concat();
        let sum: u32 = all.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        segment[16..18].copy_from_slice(&(!folded).to_be_bytes());
        segment
    }

    #[test]
    fn fragments_do_not_get_past_the_filter() {
        let work = || {
            let mut overlay = Overlay::new();
            // Without a filter they lead to an answer.
            overlay.send_in_fragments(STRANGER);
            assert_eq!(overlay.answered(), STRANGER);
        };
        std::thread::spawn(work).join().unwrap();
        let work = || {
            let mut overlay = Overlay::new();
            load(&allow_list("mycelium", 7681, &[network(ADMIN)])).unwrap();
            overlay.send(STRANGER, IPPROTO_TCP, &syn(STRANGER));
            overlay.send_in_fragments(STRANGER);
            // Answers come in the order of what they answer.
            overlay.send(ADMIN, IPPROTO_TCP, &syn(ADMIN));
            assert_eq!(overlay.answered(), ADMIN);
        };
        std::thread::spawn(work).join().unwrap();
    }

    #[test]
    fn masks_have_the_bits_of_their_prefix() {
        assert_eq!(mask(7, 4), [0xfe, 0, 0, 0]);
        assert_eq!(mask(0, 2), [0, 0]);
        assert_eq!(mask(24, 4), [255, 255, 255, 0]);
        assert_eq!(mask(128, 16), [255; 16]);
    }
}

//! The packet filter of a debug session: one table of nf_tables, loaded over nfnetlink.
//!
//! In: the overlay's interface, a port, and the networks that may connect. Out: the bytes of one batch, which the
//! kernel takes as a whole or not at all; then its acknowledgements. Failure: the kernel's errno; no rule of the batch
//! is in effect then. Rules name the interface, so they wait for one that comes later or comes again.
//!
//! What `nft list ruleset` says of it stands in docs/debug.md. The numbers are those of
//! linux/netfilter/nf_tables.h and nfnetlink.h; what is not of netlink itself is big-endian.

use std::io;
use std::net::IpAddr;
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
    Network { address: IpAddr::V6(std::net::Ipv6Addr::new(0x400, 0, 0, 0, 0, 0, 0, 0)), prefix: 7 };

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
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
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

/// The batch that loads the table, in place of one that an earlier attempt has left.
#[must_use]
pub fn allow_list(interface: &str, port: u16, allow: &[Network]) -> Vec<u8> {
    let mut batch = batch_end(NFNL_MSG_BATCH_BEGIN);
    // What is not there cannot be deleted, so it is made first.
    for kind in [NFT_MSG_NEWTABLE, NFT_MSG_DELTABLE, NFT_MSG_NEWTABLE] {
        batch.extend(table(kind));
    }
    batch.extend(chain("overlay", NF_INET_PRE_ROUTING, PRIORITY_RAW));
    for side in [Side::Source, Side::Destination] {
        batch.extend(rule("overlay", NF_DROP, |rule| {
            // The node reaches its own address through lo.
            rule.interface("lo", NFT_CMP_NEQ);
            rule.interface(interface, NFT_CMP_NEQ);
            rule.network(side, &OVERLAY);
        }));
    }
    batch.extend(chain("debug", NF_INET_LOCAL_IN, PRIORITY_FILTER));
    for network in allow {
        batch.extend(rule("debug", NF_ACCEPT, |rule| {
            rule.interface(interface, NFT_CMP_EQ);
            rule.network(Side::Source, network);
            rule.tcp_port(port);
        }));
    }
    batch.extend(rule("debug", NF_DROP, |rule| rule.tcp_port(port)));
    batch.extend(batch_end(NFNL_MSG_BATCH_END));
    batch
}

/// Has the kernel take a batch.
///
/// # Errors
/// The first of the kernel's refusals, or that it did not acknowledge every message; nothing of the batch is in effect
/// then.
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

    fn interface(&mut self, name: &str, operator: u32) {
        let mut padded = name.as_bytes().to_vec();
        padded.resize(IFNAMSIZ, 0);
        self.meta(NFT_META_IIFNAME, operator, &padded);
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

    fn tcp_port(&mut self, port: u16) {
        self.meta(NFT_META_L4PROTO, NFT_CMP_EQ, &[IPPROTO_TCP]);
        self.load(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
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
    use std::process::Command;

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
		iifname "mycelium" ip6 saddr 400:1::2 tcp dport 7681 accept
		iifname "mycelium" ip6 saddr 500:8000::/17 tcp dport 7681 accept
		iifname "mycelium" ip saddr 10.1.2.0/23 tcp dport 7681 accept
		tcp dport 7681 counter packets 0 bytes 0 drop
	}
}
"#;

    #[test]
    fn nft_reads_the_rules_that_were_meant() {
        let allow = [network("400:1::2"), network("500:ffff::1/17"), network("10.1.2.3/23")];
        let batch = allow_list("mycelium", 7681, &allow);
        // Twice: an attempt that failed later leaves its table to the next.
        assert_eq!(read_back(&[allow_list("other", 1, &[]), batch.clone(), batch]), EXPECTED);
    }

    #[test]
    fn a_refusal_leaves_no_rule() {
        let mut batch = allow_list("mycelium", 7681, &[network("400:1::2")]);
        // The last rule, in a chain that is not there.
        let at = batch.windows(6).rposition(|bytes| bytes == b"debug\0").unwrap();
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
        assert_eq!(demanded(&batch), 9);
        assert_eq!(acknowledged(&[]).unwrap(), 0);
        let mut refusal = [0; 36];
        refusal[..4].copy_from_slice(&36u32.to_ne_bytes());
        refusal[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        assert_eq!(acknowledged(&refusal).unwrap(), 1);
        refusal[16..20].copy_from_slice(&(-1i32).to_ne_bytes());
        assert_eq!(acknowledged(&refusal).unwrap_err().raw_os_error(), Some(1));
    }

    #[test]
    fn masks_have_the_bits_of_their_prefix() {
        assert_eq!(mask(7, 4), [0xfe, 0, 0, 0]);
        assert_eq!(mask(0, 2), [0, 0]);
        assert_eq!(mask(24, 4), [255, 255, 255, 0]);
        assert_eq!(mask(128, 16), [255; 16]);
    }
}

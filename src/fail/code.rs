//! Every failure that the init can print, by its code.
//!
//! In: nothing. Out: [`Code`]s, each with the word for scripts, the advice for people, and whether another attempt could
//! help. `docs/errors.md` has a section for each, and no other; the tests below keep it so. Failure: none.
//!
//! A code is never given to another failure, and a word is never changed: people have scripts. A cause of its own
//! advice gets a code of its own.

/// One row of the table of codes.
struct Row {
    code: &'static str,
    word: &'static str,
    is_final: bool,
    advice: &'static str,
}

macro_rules! codes {
    ($($name:ident $code:literal $word:literal $again:ident $advice:literal;)*) => {
        /// A failure that the init can print.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $code] $name,)*
        }

        /// In the order of the variants.
        const ROWS: &[Row] = &[
            $(Row { code: $code, word: $word, is_final: again::$again, advice: $advice },)*
        ];

        #[cfg(test)]
        impl Code {
            const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

/// Whether another attempt could end otherwise.
#[allow(non_upper_case_globals)]
mod again {
    /// It could: a server, a network, a person's hand can change it.
    pub const again: bool = false;
    /// The image, or the kernel command line, is what it is until somebody boots another.
    pub const never: bool = true;
}

codes! {
    // The image: its identity, and what it is made for.
    SlotMissing "ZS-IMG-01" "bad-slot" never "make the image anew: zstrap image; this initramfs has no identity slot that can be read";
    SlotBlank "ZS-IMG-02" "bad-slot" never "stamp the image with an identity: zstrap image";
    SlotDamaged "ZS-IMG-03" "bad-slot" never "compare the files on the server with the image's SHA256SUMS, or make the image anew: zstrap image";
    BadIdentity "ZS-IMG-04" "bad-identity" never "make the image anew with the zstrap that its init belongs to";
    NoKeys "ZS-IMG-05" "no-keys" never "make the image anew with the public keys that it is to trust: zstrap image, --key";
    OtherArch "ZS-IMG-06" "unsupported" never "boot an image of this machine's architecture";
    BadCa "ZS-IMG-07" "unsupported" never "make the image anew with a --ca that holds certificates in PEM";
    BadProxy "ZS-IMG-08" "unsupported" never "make the image anew with a proxy that this version can speak to: --proxy http://HOST:PORT";

    // The kernel command line.
    BadLabel "ZS-CMD-01" "bad-label" never "correct the kernel command line; labels match [A-Za-z0-9._-]{1,64}";
    BadNetwork "ZS-CMD-02" "bad-network" never "correct zstrap.net= on the kernel command line: docs/network.md";
    WrongBundle "ZS-CMD-03" "wrong-bundle" again "correct zstrap.bundle= on the kernel command line or --bundle of the image, or list the bundle in the config";

    // The network, up to an address.
    NoLink "ZS-NET-01" "no-link" again "check that the kernel has a driver for this network card (zstrap.log=debug)";
    OtherLinks "ZS-NET-02" "no-link" again "correct the link in the network settings; the names of all links stand above";
    NoCarrier "ZS-NET-03" "no-carrier" again "check the cable and the switch port";
    NoLease "ZS-NET-04" "no-lease" again "check that a DHCP server or an IPv6 router serves this network";
    NothingAsked "ZS-NET-05" "no-lease" again "check that the network settings lead to a server: docs/network.md";
    NetworkIo "ZS-NET-06" "io" again "report this line; it is a defect of the init or the kernel";
    NotUsable "ZS-NET-07" "no-server" again "correct the address that the DHCP server or the network settings give; the kernel refuses it";
    NoNameServer "ZS-NET-08" "no-server" again "name a name server: in the DHCP server (option 6), or dns= in the network settings";

    // A server, before it has shown that it is one of ours.
    ConnectionRefused "ZS-SRV-01" "no-server" again "start the server: its machine is there, and nobody listens at that port";
    Unreachable "ZS-SRV-02" "no-server" again "check that the server is up, and the gateway and firewalls between it and this network";
    NameUnknown "ZS-SRV-03" "no-server" again "check the server's name in the image, and the name server that this network gives";
    NotPublished "ZS-SRV-04" "no-server" again "publish the config under the name that the image asks for: zstrap config add";
    StatusAtFirst "ZS-SRV-05" "no-server" again "look at the server's log: it answers, but gives no file";
    UnknownCa "ZS-SRV-06" "no-server" again "make the image with the CA that has signed the server's certificate: --ca";
    CaAsServer "ZS-SRV-07" "no-server" again "give the server a certificate that a CA has signed (CA:FALSE), and the image that CA: --ca";
    OtherName "ZS-SRV-08" "no-server" again "ask for the server by a name of its certificate, or give it a certificate for this name";
    OtherTime "ZS-SRV-09" "no-server" again "renew the server's certificate, or set the clock of this machine; the clock: lines say who was asked";
    OtherSigner "ZS-SRV-10" "no-server" again "make the image with the CA that signs now, or the certificate with the CA of the image: --ca";
    BadCertificate "ZS-SRV-11" "no-server" again "give the server a certificate that TLS libraries accept: openssl verify";
    NotOurs "ZS-SRV-12" "no-server" again "see what answers at this URL, such as a login page: no site of zstrap does";
    NoMedium "ZS-SRV-13" "no-server" again "check that the stick or CD is there and has the folder of the image's file: server";
    NoAnswer "ZS-SRV-14" "no-server" again "check that the server at this port speaks what the URL says, http or https, and see its log";

    // The site, once it has answered.
    FileMissing "ZS-SRV-15" "not-found" again "check that the site is whole: zstrap verify; copy blobs first, and latest last";
    BundleMissing "ZS-SRV-16" "not-found" again "publish the bundle for this machine's architecture: zstrap publish --arch";
    FileStatus "ZS-SRV-17" "http-status" again "look at the server's log: it gives no file";
    FileTooLarge "ZS-SRV-18" "too-large" again "check what serves this URL; no file of a site is that long";
    NotASerial "ZS-SRV-19" "not-a-serial" again "check what serves this URL; it is not a whole site";
    WrongSerial "ZS-SRV-20" "wrong-serial" again "do not trust this server until you know who renamed the file; publish anew";
    FileBroken "ZS-SRV-21" "io" again "check the network between the server and this machine: the connection broke";

    // Signatures of config and list.
    NoSignature "ZS-SIG-01" "missing-signature" again "publish it with the key that this image trusts: zstrap publish, zstrap config add";
    UnknownKey "ZS-SIG-02" "unknown-key" again "sign with a key of the image, or make an image that trusts this key";
    TooFewSigners "ZS-SIG-03" "threshold" again "have more of the image's keys sign it: zstrap sign, or publish with --key once for each";
    Changed "ZS-SIG-04" "bad-signature" again "do not trust this server until you know who changed the site; publish anew";
    NotASignature "ZS-SIG-05" "bad-signature" again "check what serves this URL: it gives something else for a signature";
    LegacySignature "ZS-SIG-06" "legacy-signature" again "sign with zstrap, or with a minisign that prehashes";
    CommentsDiffer "ZS-SIG-07" "comments-differ" again "have all sign what the first has published: zstrap sign takes its comment; or publish anew";
    BadComment "ZS-SIG-08" "bad-comment" again "sign with zstrap: publish and config add write the comment that a node needs";
    WrongKind "ZS-SIG-09" "wrong-kind" again "do not trust this server until you know who changed the site; publish anew";
    WrongName "ZS-SIG-10" "wrong-name" again "do not trust this server until you know who changed the site; publish anew";
    WrongArch "ZS-SIG-11" "wrong-arch" again "do not trust this server until you know who changed the site; publish anew";
    Expired "ZS-SIG-12" "expired" again "publish anew, or set the clock of this machine";
    FromFuture "ZS-SIG-13" "from-future" again "set the clock of this machine, or of the one that signs";
    OlderThanSeen "ZS-SIG-14" "older-than-seen" again "bring the site of this server up to date; what this node has seen is in docs/disk.md";

    // The config.
    Sha256Pin "ZS-CFG-01" "sha256-pin" again "make an image that pins the config you want, or none";
    Md5Pin "ZS-CFG-02" "md5-pin" never "make the image anew: the two hashes that it pins are of different configs";
    ConfigSyntax "ZS-CFG-03" "config-syntax" again "correct the config: zstrap config check; or make an image with an init that knows it";
    MustUnderstand "ZS-CFG-04" "must-understand" again "make an image with a later init, or take the field out of must_understand";
    NoDisk "ZS-CFG-05" "unsupported" again "change the config, or make an image with a later init";
    NulInConfig "ZS-CFG-06" "config-syntax" again "take the NUL byte out of exec or env: zstrap config check";

    // The list.
    BadPath "ZS-LST-01" "bad-path" again "publish the bundle anew with zstrap publish; ask who signed this list";
    ListSyntax "ZS-LST-02" "list-syntax" again "publish the bundle anew with zstrap publish; ask who signed this list";
    TooOld "ZS-LST-03" "too-old" again "publish the bundle anew, or lower min_serial in the config";
    Setuid "ZS-LST-04" "setuid" again "publish without the bit, or set allow_setuid in the config";

    // Memory, and the root in it.
    NoMemory "ZS-MEM-01" "no-memory" again "give the machine more memory, or publish a smaller bundle";
    RootIo "ZS-MEM-02" "io" again "report this line; it is a defect of the init or the kernel";
    RootFull "ZS-MEM-03" "io" again "give the machine more memory, or raise root.headroom in the config";

    // The disk. A node whose disk is kept goes on in RAM.
    DiskNotFree "ZS-DSK-01" "disk-not-free" again "name the disk in the config by its serial or WWN, with erase, if nothing on it is needed any more";
    DiskSeveral "ZS-DSK-02" "several-disks" again "say in root.disk of the config which one is meant: smallest, largest, or by its serial";
    DiskMissing "ZS-DSK-03" "disk-missing" again "compare root.disk of the config with the disks of this machine, and their cables";
    DiskTooSmall "ZS-DSK-04" "disk-too-small" again "lower root.size in the config, or put in a larger disk";
    DiskIo "ZS-DSK-05" "disk-io" again "see what the kernel says of this disk, and replace it if it says so again";

    // The files of the bundle.
    Length "ZS-FIL-01" "length" again "the server's copy was changed after signing: publish anew, and find out who changed it";
    Sha256 "ZS-FIL-02" "sha256" again "the server's copy was changed after signing: publish anew, and find out who changed it";
    Md5 "ZS-FIL-03" "md5" again "publish the bundle anew with zstrap publish";
    BlobMissing "ZS-FIL-04" "not-found" again "publish the bundle anew, or copy the site whole: blobs first, and latest last";
    BlobStatus "ZS-FIL-05" "http-status" again "look at the server's log: it gives no file";
    BlobBroken "ZS-FIL-06" "io" again "check the server and the network between it and this machine: every try broke";
    NotWritten "ZS-FIL-07" "io" again "report this line; it is a defect of the init or the kernel";

    // The program that takes over.
    NoProgram "ZS-RUN-01" "exec" again "correct exec in the config, or publish a bundle that has this program";
    NotAProgram "ZS-RUN-02" "exec" again "check that the program is built for this machine's architecture, or begins with #!";
    NoLoader "ZS-RUN-03" "exec" again "publish a bundle that has the loader or the interpreter that the program asks for";
    NotRun "ZS-RUN-04" "exec" again "see what the kernel says behind because:";
    HandoffIo "ZS-RUN-05" "io" again "report this line; it is a defect of the init or the kernel";
    SuperviseIo "ZS-RUN-06" "io" never "report this line; it is a defect of the init or the kernel";
    GaveUp "ZS-RUN-07" "gave-up" never "see what the program said before it ended: its own lines stand above";

    // The init itself, and the kernel.
    Panic "ZS-BUG-01" "panic" never "report these lines; it is a defect of the init";
    NotEnded "ZS-BUG-02" "not-ended" again "switch the machine off and on; the kernel refuses to";
}

impl Code {
    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// What people search for: `ZS-NET-04`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().code
    }

    /// One stable word for scripts, in kebab case; several causes may share one.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.row().word
    }

    /// What most likely helps.
    #[must_use]
    pub fn advice(self) -> &'static str {
        self.row().advice
    }

    /// Whether another attempt would find the very same, so that only a person can help.
    #[must_use]
    pub fn is_final(self) -> bool {
        self.row().is_final
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PAGE: &str = include_str!("../../docs/errors.md");
    /// What every section tells, in this order.
    const PARTS: [&str; 5] =
        ["- **Reason:** `", "- **Happened:** ", "- **Not done:** ", "- **Causes:** ", "- **Do:** "];

    /// The heading and the words of each section whose heading is a code.
    fn sections(page: &str) -> Vec<(&str, String)> {
        let sections = page.split("\n#").skip(1).map(|section| section.trim_start_matches('#'));
        let split = sections.filter_map(|section| section.split_once('\n'));
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let all = split.map(|(heading, text)| (heading.trim(), words(text)));
        all.filter(|(heading, _)| heading.starts_with("ZS-")).collect()
    }

    /// What keeps a page and the codes from being in step; nothing when they are.
    fn out_of_step(page: &str) -> Option<String> {
        let sections = sections(page);
        for code in Code::ALL {
            let own: Vec<_> = sections.iter().filter(|(heading, _)| *heading == code.as_str()).collect();
            let [(_, text)] = own[..] else {
                return Some(format!("{} has {} sections", code.as_str(), own.len()));
            };
            if !text.contains(&format!("- **Reason:** `{}`", code.word())) {
                return Some(format!("{} is {}", code.as_str(), code.word()));
            }
            if text.contains("No other attempt") != code.is_final() {
                return Some(format!("{}: whether another attempt follows", code.as_str()));
            }
            let places: Vec<_> = PARTS.iter().map(|part| text.find(part)).collect();
            if places.contains(&None) || !places.is_sorted() {
                return Some(format!("{} lacks one of {PARTS:?}", code.as_str()));
            }
        }
        let is_known = |heading: &str| Code::ALL.iter().any(|code| code.as_str() == heading);
        let stranger = sections.iter().find(|(heading, _)| !is_known(heading));
        stranger.map(|(heading, _)| format!("no code {heading}"))
    }

    #[test]
    fn each_code_has_its_section_in_the_page_and_no_other_has() {
        assert_eq!(out_of_step(PAGE), None);
    }

    #[test]
    fn a_page_out_of_step_is_seen() {
        assert!(out_of_step(&PAGE.replace("### ZS-NET-04\n", "### ZS-NET-99\n")).is_some());
        assert!(out_of_step(&format!("{PAGE}\n### ZS-NET-99\n\ntext\n")).is_some());
        assert!(out_of_step(&format!("{PAGE}\n### ZS-NET-04\n\ntext\n")).is_some());
        assert!(out_of_step(&PAGE.replace("- **Reason:** `no-lease`", "- **Reason:** `no-leese`")).is_some());
        assert!(out_of_step(&PAGE.replace("No other", "Another")).is_some());
    }

    #[test]
    fn every_code_is_in_the_index_of_the_page() {
        for code in Code::ALL {
            let link = format!("[{}](#{})", code.as_str(), code.as_str().to_lowercase());
            assert!(PAGE.contains(&link), "{link}");
        }
    }

    #[test]
    fn no_two_codes_are_the_same_and_all_are_well_formed() {
        let all: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!((all.len(), ROWS.len()), (Code::ALL.len(), Code::ALL.len()));
        for row in ROWS {
            let parts: Vec<&str> = row.code.split('-').collect();
            let [prefix, group, number] = parts[..] else { panic!("{}", row.code) };
            let upper = group.len() == 3 && group.bytes().all(|b| b.is_ascii_uppercase());
            let digits = number.len() == 2 && number.bytes().all(|b| b.is_ascii_digit());
            assert!(prefix == "ZS" && upper && digits, "{}", row.code);
            assert!(!row.advice.is_empty() && !row.advice.ends_with('.'), "{}", row.code);
        }
    }

    #[test]
    fn numbers_of_a_group_have_no_gaps() {
        for (before, after) in ROWS.iter().zip(&ROWS[1..]) {
            let number = |row: &Row| row.code[7..].parse::<u32>().ok();
            let is_next =
                before.code[..7] == after.code[..7] && number(after) == number(before).map(|n| n + 1);
            let begins = number(after) == Some(1);
            assert!(is_next || begins, "{} after {}", after.code, before.code);
        }
    }
}

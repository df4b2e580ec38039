//! Which request paths name a file of a site, and what is known of a file by its path alone.
//!
//! In: the raw path of a request line. Out: a [`SitePath`]: relative, without dots, links to nowhere or
//! anything encoded, with its content type and cache rule. Failure: `None`, which the caller answers with
//! 404, for all that a site never holds.

use percent_encoding::percent_decode_str;

/// The longest path that is looked at; the longest of a site is about 200 bytes.
const MAX_PATH: usize = 1024;
/// The folders of a site; anything beside them (keys left there by mistake, editors' files) is not served.
const FOLDERS: [&str; 5] = ["blobs", "bundles", "configs", "images", "kernels"];
/// The one file at the top of a site.
const CONFIGS_JSON: &str = "configs.json";

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// A request path that may name a file of the site: relative, each segment plain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SitePath {
    relative: String,
}

impl SitePath {
    /// Reads the path of a request line, without its query. Each segment is decoded once, so that what is
    /// encoded twice stays a name with a `%`, and those are refused.
    pub(crate) fn from_request(raw: &str) -> Option<Self> {
        if raw.len() > MAX_PATH {
            return None;
        }
        let segments: Vec<String> =
            raw.strip_prefix('/')?.split('/').map(plain_segment).collect::<Option<_>>()?;
        let known = match segments.as_slice() {
            [only] => only == CONFIGS_JSON,
            [first, ..] => FOLDERS.contains(&first.as_str()),
            [] => false,
        };
        known.then(|| SitePath { relative: segments.join("/") })
    }

    /// The path below the site's folder.
    pub(crate) fn relative(&self) -> &str {
        &self.relative
    }

    /// The SHA-256 that a blob's path promises, in hex.
    pub(crate) fn blob_hash(&self) -> Option<&str> {
        self.relative.strip_prefix("blobs/sha256/").filter(|name| is_sha256(name))
    }

    /// True for what is never changed once published: named by its serial or by its hash.
    pub(crate) fn is_immutable(&self) -> bool {
        let segments: Vec<&str> = self.relative.split('/').collect();
        match segments.as_slice() {
            ["blobs", "sha256", name] => is_sha256(name.strip_suffix(".zst").unwrap_or(name)),
            // Its signature is made anew, with a later expiry, when the same config is added again.
            ["configs", "by-hash", name] => name.strip_suffix(".json").is_some_and(is_sha256),
            ["configs", _, name] | ["bundles", _, _, name] => is_serial(stem(name)),
            ["images" | "kernels", below @ ..] => below.iter().any(|segment| is_sha256(stem(segment))),
            _ => false,
        }
    }

    /// The value of `Content-Type`.
    pub(crate) fn content_type(&self) -> &'static str {
        let name = self.relative.rsplit('/').next().unwrap_or_default();
        match name.rsplit_once('.').map_or(name, |(_, extension)| extension) {
            "mtree" | "packed" | "minisig" | "latest" | "txt" | "ipxe" | "SHA256SUMS" => TEXT,
            "json" => JSON,
            _ => BYTES,
        }
    }
}

/// Decodes one segment and accepts it when it is a plain name: no dot in front (temporary files, `..`), and
/// none of the characters that mean something to a shell, a URL or another system's paths.
fn plain_segment(raw: &str) -> Option<String> {
    let name = percent_decode_str(raw).decode_utf8().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+~=,@".contains(&byte);
    let fits = !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain);
    fits.then(|| name.into_owned())
}

/// The part of a file name before its first dot: `17` of `17.mtree.minisig`.
fn stem(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_serial(text: &str) -> bool {
    !text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn site_path(raw: &str) -> SitePath {
        SitePath::from_request(raw).unwrap()
    }

    #[test]
    fn accepts_every_path_of_the_site_layout() {
        for raw in [
            "/configs.json",
            "/configs/demo/latest",
            "/configs/demo/17.json.minisig",
            "/bundles/zos-1.1/amd64/17.mtree",
            "/kernels/amd64/latest",
            &format!("/configs/by-hash/{HEX}.json"),
            &format!("/blobs/sha256/{HEX}"),
        ] {
            assert_eq!(site_path(raw).relative(), &raw[1..]);
        }
    }

    #[test]
    fn decodes_a_segment_once() {
        assert_eq!(site_path("/bundles/a%2Db/latest").relative(), "bundles/a-b/latest");
    }

    #[test]
    fn refuses_what_a_site_never_holds() {
        for raw in [
            "",
            "/",
            "*",
            "configs.json",
            "//configs.json",
            "/configs.json/",
            "/keys/admin.key",
            "/README.md",
            "/configs",
            "/.tmp/lock",
            "/blobs/.tmp/x",
            "/blobs/../configs.json",
            "/blobs/%2e%2e/configs.json",
            "/blobs/%252e%252e/configs.json",
            "/blobs/..%2fconfigs.json",
            "/blobs%2fsha256",
            "/blobs/a%00b",
            "/blobs/a%5cb",
            "/blobs/a\\b",
            "/blobs/a%0ab",
            "/blobs/%ff",
            "/blobs/%zz",
            "/blobs//x",
            "/blobs/x/",
        ] {
            assert_eq!(SitePath::from_request(raw), None, "{raw}");
        }
        assert!(SitePath::from_request(&format!("/blobs/{}", "a".repeat(MAX_PATH))).is_none());
    }

    #[test]
    fn knows_what_is_immutable() {
        let immutable = |raw: &str| site_path(raw).is_immutable();
        assert!(immutable(&format!("/blobs/sha256/{HEX}")));
        assert!(immutable(&format!("/blobs/sha256/{HEX}.zst")));
        assert!(immutable("/bundles/demo/amd64/17.packed"));
        assert!(immutable(&format!("/configs/by-hash/{HEX}.json")));
        assert!(immutable("/configs/demo/17.json"));
        assert!(immutable("/bundles/demo/amd64/17.mtree.9A0C4A04C7E3B1F2.minisig"));
        assert!(immutable(&format!("/images/amd64/{HEX}.img")));
        assert!(immutable(&format!("/kernels/amd64/{HEX}/vmlinuz")));
    }

    #[test]
    fn knows_what_changes() {
        let changes = |raw: &str| !site_path(raw).is_immutable();
        assert!(changes("/configs.json"));
        assert!(changes("/configs/demo/latest"));
        assert!(changes(&format!("/configs/by-hash/{HEX}.json.minisig")));
        assert!(changes("/bundles/demo/amd64/latest"));
        assert!(changes("/kernels/amd64/latest"));
        assert!(changes("/images/latest"));
        assert!(changes("/images/demo/boot.ipxe"));
        assert!(changes("/blobs/sha256/short"));
        assert!(changes("/blobs/sha256/short.zst"));
    }

    #[test]
    fn chooses_content_types() {
        assert_eq!(site_path("/bundles/demo/amd64/17.mtree").content_type(), TEXT);
        assert_eq!(site_path("/bundles/demo/amd64/17.mtree.minisig").content_type(), TEXT);
        assert_eq!(site_path("/bundles/demo/amd64/latest").content_type(), TEXT);
        assert_eq!(site_path("/configs.json").content_type(), JSON);
        assert_eq!(site_path("/bundles/demo/amd64/17.packed").content_type(), TEXT);
        assert_eq!(site_path(&format!("/blobs/sha256/{HEX}")).content_type(), BYTES);
        assert_eq!(site_path(&format!("/blobs/sha256/{HEX}.zst")).content_type(), BYTES);
    }
}

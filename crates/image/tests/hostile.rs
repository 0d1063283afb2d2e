//! Archives that lie, climb, explode or stop in the middle: refused with a reason, nothing kept, nothing touched outside.
//! Needs root.
#![allow(clippy::unwrap_used, reason = "tests fail where they stand")]

mod support;

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use killick_image::{Error, Store};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;
use support::{Header, Oci, Tar, docker_archive, gzip, image, sha256};

/// A store with a neighbour that must not change.
struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

impl Place {
    /// In memory: thousands of imports shall not wait for a disk.
    fn new() -> Place {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/precious"), "host").unwrap();
        let store = Store::open(dir.path().join("images")).unwrap();
        Place { dir, store }
    }

    fn outside(&self) -> String {
        self.dir.path().join("outside").display().to_string()
    }

    fn layer(&self, tar: &Tar) -> Result<PathBuf, String> {
        self.store.import(image("killick.local/evil:1", &[tar.finish()]), None).map_err(|error| error.to_string())?;
        Ok(self.store.resolve("killick.local/evil:1").unwrap().unwrap().layers[0].clone())
    }

    fn assert_untouched(&self) {
        let names: Vec<_> =
            fs::read_dir(self.dir.path().join("outside")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["precious"]);
        let precious = fs::metadata(self.dir.path().join("outside/precious")).unwrap();
        assert_eq!((precious.len(), precious.nlink(), precious.uid()), (4, 1, 0));
        let mut names: Vec<_> = fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["images", "outside"]);
        assert_eq!(entries(&self.dir.path().join("images/tmp")), 0);
    }

    fn assert_empty(&self) {
        for dir in ["tmp", "layers", "blobs"] {
            assert_eq!(entries(&self.dir.path().join("images").join(dir)), 0, "{dir}");
        }
    }
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// The layer is refused with a text that holds `expected`, and nothing is kept.
fn refused(tar: &Tar, expected: &str) {
    let place = Place::new();
    let error = place.layer(tar).unwrap_err();
    assert!(error.contains(expected), "{error}\n  expected {expected}");
    place.assert_untouched();
    place.assert_empty();
}

#[test]
fn names_that_climb_are_refused_and_absolute_ones_stay_inside() {
    for name in ["../escape", "a/../../escape", "./../x", "/../x", "a/.."] {
        refused(Tar::default().file(name, b"x"), "a name with \"..\" leaves the layer");
    }
    refused(Tar::default().pax(&[("path", b"../pax")]).file("honest", b"x"), "a name with \"..\"");
    let place = Place::new();
    let root = place.layer(Tar::default().file("/etc/passwd", b"inside")).unwrap();
    assert_eq!(fs::read(root.join("etc/passwd")).unwrap(), b"inside");
    place.assert_untouched();
}

#[test]
fn links_lead_nowhere_outside() {
    let place = Place::new();
    let outside = place.outside();
    let mut tar = Tar::default();
    tar.symlink("abs", &outside).file("abs/file", b"1");
    tar.symlink("up", "../../../../../../../../..").file("up/climbed", b"2");
    tar.symlink("d/rel", "../e").file("d/rel/x", b"3");
    // A file where a link is: the link goes, what it names stays.
    tar.symlink("replaced", &format!("{outside}/precious")).file("replaced", b"mine");
    // Attributes of a link's own name.
    tar.symlink("owned", &format!("{outside}/precious"));
    tar.push(
        Header::new(b"owned2", b'2', 0).link(format!("{outside}/precious").as_bytes()).owner(1234, 1234).mode(0o777),
        b"",
    );
    // A directory that becomes a link while its children follow.
    tar.dir("swap", 0o755).file("swap/one", b"").symlink("swap", &outside).file("swap/two", b"4");
    let root = place.layer(&tar).unwrap();
    place.assert_untouched();
    assert_eq!(fs::read(root.join(outside.trim_start_matches('/')).join("file")).unwrap(), b"1");
    assert_eq!(fs::read(root.join("climbed")).unwrap(), b"2");
    assert_eq!(fs::read(root.join("e/x")).unwrap(), b"3");
    assert_eq!(fs::read(root.join("replaced")).unwrap(), b"mine");
    assert_eq!(fs::symlink_metadata(root.join("owned2")).unwrap().uid(), 1234);
    assert_eq!(fs::read(root.join(outside.trim_start_matches('/')).join("two")).unwrap(), b"4");
}

#[test]
fn hard_links_reach_only_what_the_layer_has() {
    let outside = Place::new();
    let precious = format!("{}/precious", outside.outside());
    refused(Tar::default().hard_link("steal", &precious), "which this layer does not have");
    refused(Tar::default().hard_link("steal", "../../outside/precious"), "a name with \"..\"");
    refused(
        Tar::default().symlink("l", &outside.outside()).hard_link("steal", "l/precious"),
        "which this layer does not have",
    );
    refused(Tar::default().dir("d", 0o755).hard_link("h", "d"), "a directory");
    refused(Tar::default().hard_link("h", "/"), "root of the layer");
    outside.assert_untouched();
    // To a link: the link itself gets a second name.
    let place = Place::new();
    let root = place.layer(Tar::default().symlink("l", &precious).hard_link("h", "l")).unwrap();
    assert_eq!(fs::read_link(root.join("h")).unwrap(), Path::new(&precious));
}

#[test]
fn the_last_of_equal_names_wins_and_a_file_is_no_directory() {
    let place = Place::new();
    let mut tar = Tar::default();
    tar.file("a", b"first").file("a", b"second").file("./a", b"third");
    tar.dir("d", 0o700).file("d/kept", b"").dir("d", 0o711);
    tar.dir("t", 0o755).file("t/x", b"").file("t", b"now a file");
    tar.symlink("l", "a").dir("l", 0o755).file("l/inside", b"");
    let root = place.layer(&tar).unwrap();
    assert_eq!(fs::read(root.join("a")).unwrap(), b"third");
    assert!(root.join("d/kept").exists());
    assert_eq!(fs::metadata(root.join("d")).unwrap().mode() & 0o7777, 0o711);
    assert_eq!(fs::read(root.join("t")).unwrap(), b"now a file");
    assert!(root.join("l/inside").exists());
    refused(Tar::default().file("f", b"").file("f/below", b""), "is not a directory");
    refused(Tar::default().symlink("x", "y").symlink("y", "x").file("x/f", b""), "too many symbolic links");
    refused(&Tar::default().file("", b"x").clone(), "the root of a layer must be a directory");
}

#[test]
fn sizes_that_lie_are_refused() {
    let huge = |size: u64| {
        let mut header = Header::new(b"huge", b'0', 0);
        header.bytes[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        header.bytes[128..136].copy_from_slice(&size.to_be_bytes());
        let mut tar = Tar::default();
        tar.push(&mut header, b"little");
        tar
    };
    refused(&huge(1 << 62), "unpacked image is larger than the limit of");
    refused(&huge(u64::MAX), "unpacked image is larger than the limit of");
    refused(&huge(1 << 20), "the archive ends early");
    let mut negative = Header::new(b"n", b'0', 0);
    negative.bytes[124..136].fill(0xff);
    refused(Tar::default().push(&mut negative, b""), "size is not a number");
    refused(Tar::default().pax(&[("size", b"9223372036854775808")]).file("f", b""), "unpacked image is larger");
    refused(Tar::default().pax(&[("size", b"-1")]).file("f", b""), "PAX size is not a number");
    refused(
        Tar::default()
            .push(Header::new(b"f", b'0', 0).octal(108, 8, 0).octal(116, 8, 0o7777777), b"")
            .pax(&[("uid", b"4294967296")])
            .file("g", b""),
        "uid 4294967296 is out of range",
    );
    let mut pax = Header::new(b"x", b'x', 1 << 30);
    refused(Tar::default().push(&mut pax, b""), "extension header of 1073741824 bytes");
    let mut name = Header::new(b"././@LongLink", b'L', 5000);
    refused(Tar::default().push(&mut name, &[b'n'; 5000]).file("f", b""), "name of 5000 bytes");
}

#[test]
fn malformed_extensions_and_sparse_maps_are_refused() {
    refused(Tar::default().push(&mut Header::new(b"x", b'x', 5), b"99 a=").file("f", b""), "malformed PAX record");
    refused(Tar::default().push(&mut Header::new(b"x", b'x', 4), b"abcd").file("f", b""), "malformed PAX record");
    refused(Tar::default().pax(&[("path", b"a\0b")]).file("f", b""), "name with a NUL byte");
    refused(Tar::default().push(&mut Header::new(b"z", b'Z', 0), b""), "entry of unknown type 'Z'");
    let mut many = Tar::default();
    for _ in 0..20 {
        many.pax(&[("comment", b"again")]);
    }
    refused(many.file("f", b""), "extension headers before one entry");
    let sparse = |map: &[u8], real: &str| {
        let mut data = map.to_vec();
        data.resize(512, 0);
        data.extend_from_slice(b"abc");
        let mut tar = Tar::default();
        tar.pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", real.as_bytes())])
            .file("s", &data);
        tar
    };
    refused(&sparse(b"1\n18446744073709551615\n3\n", "10"), "sparse map overflows");
    refused(&sparse(b"1\n8\n3\n", "10"), "leaves the file");
    refused(&sparse(b"2\n5\n1\n0\n2\n", "10"), "not in order");
    refused(&sparse(b"1\n0\n2\n", "10"), "does not match the data stored");
    refused(&sparse(b"99999999\n0\n2\n", "10"), "sparse file of more than");
    refused(&sparse(b"x\n", "10"), "not made of numbers");
    refused(&sparse(b"1\n0\n3\n", "9999999999999999999"), "unpacked image is larger");
}

#[test]
fn whiteouts_of_nothing_and_devices_are_what_they_are() {
    for name in ["d/.wh..", "d/.wh...", "d/.wh."] {
        refused(Tar::default().dir("d", 0o755).file(name, b""), "a whiteout of no name");
    }
    let place = Place::new();
    let mut tar = Tar::default();
    tar.push(Header::new(b"disk", b'4', 0).mode(0o666).device(254, 0), b"");
    tar.file(".wh..wh.plnk", b"aufs");
    let root = place.layer(&tar).unwrap();
    assert!(fs::metadata(root.join("disk")).unwrap().file_type().is_block_device());
    // Nobody but root reaches it: the directory above is closed.
    assert_eq!(fs::metadata(root.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    assert_eq!(entries(&root), 1);
}

#[test]
fn overlay_shows_what_the_layers_whiteouts_mean() {
    let place = Place::new();
    let bottom = Tar::default()
        .dir("./", 0o755)
        .file("gone", b"1")
        .file("kept", b"1")
        .file("file-to-dir", b"1")
        .dir("opaque", 0o755)
        .file("opaque/below", b"1")
        .dir("again", 0o755)
        .file("again/below", b"1")
        .dir("implied", 0o755)
        .file("implied/below", b"1")
        .dir("merged", 0o755)
        .file("merged/below", b"1")
        .file("merged/hidden", b"1")
        .dir("both", 0o755)
        .file("both/below", b"1")
        .finish();
    let top = Tar::default()
        .dir("./", 0o755)
        .file(".wh.gone", b"")
        // Opaque before and after its contents.
        .dir("opaque", 0o755)
        .file("opaque/above", b"2")
        .file("opaque/.wh..wh..opq", b"")
        // Removed, then made anew: with an entry of its own, or implied by a child.
        .file(".wh.again", b"")
        .dir("again", 0o755)
        .file("again/above", b"2")
        .file(".wh.implied", b"")
        .file("implied/above", b"2")
        .dir("merged", 0o755)
        .file("merged/.wh.hidden", b"")
        .file("merged/above", b"2")
        // The directory comes first, its whiteout after.
        .dir("both", 0o755)
        .file("both/above", b"2")
        .file(".wh.both", b"")
        .dir("file-to-dir", 0o755)
        .file("file-to-dir/x", b"2")
        .finish();
    place.store.import(image("killick.local/w:1", &[bottom, top]), None).unwrap();
    let layers = place.store.resolve("killick.local/w:1").unwrap().unwrap().layers;
    let target = place.dir.path().join("merged");
    fs::create_dir(&target).unwrap();
    let lower = format!("lowerdir={}:{}", layers[1].display(), layers[0].display());
    mount(Some("overlay"), &target, Some("overlay"), MsFlags::MS_RDONLY, Some(lower.as_str())).unwrap();
    let mut seen = Vec::new();
    walk(&target, &target, &mut seen);
    umount2(&target, MntFlags::MNT_DETACH).unwrap();
    seen.sort();
    assert_eq!(
        seen,
        [
            "again/above",
            "both/above",
            "file-to-dir/x",
            "implied/above",
            "kept",
            "merged/above",
            "merged/below",
            "opaque/above"
        ]
    );
}

fn walk(top: &Path, dir: &Path, seen: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match fs::symlink_metadata(&path).unwrap().is_dir() {
            true => walk(top, &path, seen),
            false => seen.push(path.strip_prefix(top).unwrap().display().to_string()),
        }
    }
}

/// The whole archive is refused with a text that holds `expected`, and nothing is kept.
fn archive_refused(bytes: &[u8], expected: &str) {
    let place = Place::new();
    let error = place.store.import(Cursor::new(bytes), None).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}\n  expected {expected}");
    place.assert_untouched();
    place.assert_empty();
}

#[test]
fn what_is_no_image_archive_is_said_so() {
    archive_refused(b"", "archive: it is empty");
    archive_refused(&[b'x'; 4096], "not an image archive: tar: header checksum does not hold");
    archive_refused(&gzip(&[b'x'; 4096]), "not an image archive: tar: header checksum does not hold");
    archive_refused(&[0; 10240], "not an image archive: it has neither index.json");
    archive_refused(&Tar::default().file("hello", b"x").finish(), "not an image archive: it has neither index.json");
    archive_refused(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0], "compressed with zstd, which is not supported");
    archive_refused(b"BZh91AY", "compressed with bzip2");
    archive_refused(b"\xfd7zXZ\0\0", "compressed with xz");
    archive_refused(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3], "archive");
    archive_refused(&Tar::default().file("index.json", b"{").finish(), "index.json: EOF while parsing");
    archive_refused(&Tar::default().file("index.json", b"{}").finish(), "the archive holds no image");
    archive_refused(&Tar::default().file("index.json", "[".repeat(100_000).as_bytes()).finish(), "index.json: ");
    archive_refused(&Tar::default().file("../index.json", b"{}").finish(), "a name with \"..\"");
    archive_refused(&Tar::default().push(&mut Header::new(b"dev", b'3', 0), b"").finish(), "dev is a device");
    archive_refused(
        &Tar::default().file("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#).file("index.json", b"{}").finish(),
        "OCI layout version \"2.0.0\" is not known",
    );
    archive_refused(
        &Tar::default().file("manifest.json", br#"[{"Config":"\u001b[2Jx","Layers":[]}]"#).finish(),
        "the archive lacks \\u{1b}[2Jx, which its manifest names",
    );
    let loops = Tar::default().symlink("manifest.json", "a").symlink("a", "b").symlink("b", "a").finish();
    archive_refused(&loops, "too many links");
    let mut many = Tar::default();
    for n in 0..10_001 {
        many.file(&format!("{n}"), b"");
    }
    archive_refused(
        &many.finish(),
        "number of files in the archive is larger than the limit of 10000 (ARCHIVE_FILES_MAX)",
    );
}

#[test]
fn digests_and_sizes_that_do_not_hold_are_refused() {
    let layer = Tar::default().file("f", b"content").finish();
    let honest = || {
        let mut oci = Oci::new();
        oci.image("killick.local/a:1", std::slice::from_ref(&layer), false);
        oci
    };
    let mut oci = honest();
    oci.blobs[0].1[600] ^= 1;
    archive_refused(&oci.tar(), "its content has the digest sha256:");
    let mut oci = honest();
    oci.manifests[0]["size"] = json!(7);
    archive_refused(&oci.tar(), "its descriptor says 7");
    let mut oci = honest();
    oci.blobs.remove(0);
    archive_refused(&oci.tar(), "the archive lacks blobs/sha256/");
    let mut oci = honest();
    oci.manifests[0]["digest"] = json!("sha256:../../etc/passwd");
    archive_refused(&oci.tar(), "is not a sha256 digest");
    let mut oci = honest();
    oci.manifests[0]["digest"] = json!(format!("sha512:{}", "a".repeat(128)));
    archive_refused(&oci.tar(), "is not a sha256 digest");

    // The configuration promises other content, fewer layers, another machine, no layers.
    let with = |diff_ids: serde_json::Value, arch: &str, layers: usize| {
        let mut oci = Oci::new();
        let blob = oci.blob(layer.clone());
        let config = oci.json(&json!({"architecture": arch, "os": "linux", "rootfs": {"diff_ids": diff_ids}}));
        let mut descriptor = oci.json(&json!({"config": config, "layers": vec![blob; layers]}));
        descriptor["annotations"] = json!({"io.containerd.image.name": "killick.local/a:1"});
        oci.manifests.push(descriptor);
        oci.tar()
    };
    let right = sha256(&layer);
    archive_refused(&with(json!([sha256(b"other")]), support::arch(), 1), "the configuration says sha256:");
    archive_refused(&with(json!([right, right]), support::arch(), 1), "the manifest has 1 layers, the configuration 2");
    archive_refused(&with(json!([right]), "s390x", 1), "this machine is linux/");
    archive_refused(&with(json!([]), support::arch(), 0), "the image has no layers");
    archive_refused(&with(json!(["../../x"]), support::arch(), 1), "is no sha256 digest");

    let docker = docker_archive(json!(["a:1"]), std::slice::from_ref(&layer));
    let at = docker.windows(9).position(|w| w == b"amd64\",\"c" || w == b"arm64\",\"c").unwrap();
    let mut changed = docker.clone();
    changed[at] ^= 0x20;
    archive_refused(&changed, "its content has the digest");
    archive_refused(
        &docker_archive(json!(["UPPER:1"]), std::slice::from_ref(&layer)),
        "couldn't parse image name \"UPPER:1\"",
    );
}

#[test]
fn an_index_inside_itself_or_too_deep_ends() {
    let mut oci = Oci::new();
    let mut descriptor = oci.json(&json!({"manifests": [], "layers": []}));
    for _ in 0..10 {
        descriptor = oci.json(&json!({"manifests": [descriptor]}));
    }
    oci.manifests.push(descriptor);
    archive_refused(&oci.tar(), "indexes nested deeper than 4");
}

#[test]
fn every_cut_and_every_flipped_bit_ends_in_an_error_or_an_image_and_never_outside() {
    let place = Place::new();
    let layer = Tar::default()
        .dir("./", 0o755)
        .symlink("l", &place.outside())
        .pax(&[("SCHILY.xattr.user.x", b"y"), ("path", b"long/name")])
        .file("short", b"data")
        .hard_link("h", "long/name")
        .file("l/.wh.x", b"")
        .finish();
    let mut oci = Oci::new();
    oci.image("killick.local/f:1", std::slice::from_ref(&layer), false);
    let whole = oci.tar();
    for cut in (0..whole.len() - 1024).step_by(331) {
        let result = place.store.import(Cursor::new(&whole[..cut]), None);
        assert!(result.is_err(), "cut at {cut}");
    }
    // The layer is not protected by a digest here: its own maker lies.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..600 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let mut flipped = layer.clone();
        let at = (seed >> 8) as usize % flipped.len();
        flipped[at] ^= 1 << (seed & 7);
        // Half of them with a header checksum that holds again.
        let header = at / 512 * 512;
        if seed & 8 == 0 {
            flipped[header + 148..header + 156].copy_from_slice(b"        ");
            let sum: u32 = flipped[header..header + 512].iter().map(|byte| u32::from(*byte)).sum();
            flipped[header + 148..header + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let _ = place.store.import(image("killick.local/f:1", &[flipped]), None);
    }
    place.assert_untouched();
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=1500k")).unwrap();
    let check = || {
        let store = Store::open(dir.path().join("images")).unwrap();
        // Spooled it fits, unpacked it does not; and it does not even fit spooled.
        for size in [900_000, 3_000_000] {
            let big = Tar::default().file("big", &vec![b'x'; size]).finish();
            let error = store.import(image("killick.local/a:1", &[big]), None).unwrap_err();
            assert!(matches!(error, Error::DiskFull { .. }), "{error}");
            assert!(error.to_string().starts_with("no space left on device under "), "{error}");
            for sub in ["tmp", "layers", "blobs"] {
                assert_eq!(entries(&dir.path().join("images").join(sub)), 0);
            }
        }
        store.import(image("killick.local/a:1", &[Tar::default().file("small", b"x").finish()]), None).unwrap();
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
    umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
    result.unwrap();
}

//! Importing honest archives: names, platforms, layers shared, listing, removal, concurrency. Needs root.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests run commands, and fail where they stand")]

mod support;

use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use killick_image::{Error, Limits, Store, User};
use serde_json::json;
use support::{Header, Oci, Tar, arch, docker_archive, gzip, image, sha256};

fn store() -> (tempfile::TempDir, Store) {
    // Nothing may depend on it.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("images")).unwrap();
    (dir, store)
}

fn layer(file: &str) -> Vec<u8> {
    Tar::default().dir("./", 0o755).file(&format!("./{file}"), file.as_bytes()).finish()
}

/// Everything below the store but the lock and the index.
fn leftovers(store: &Path) -> Vec<String> {
    ["layers", "blobs", "tmp"]
        .iter()
        .flat_map(|dir| fs::read_dir(store.join(dir)).unwrap())
        .map(|entry| entry.unwrap().path().display().to_string())
        .collect()
}

#[test]
fn an_oci_layout_plain_or_gzip_is_imported_from_a_stream() {
    for (outer, inner) in [(false, false), (true, false), (false, true), (true, true)] {
        let (dir, store) = store();
        let mut oci = Oci::new();
        oci.image("killick.local/busybox:1", &[layer("a"), layer("b")], inner);
        let bytes = if outer { gzip(&oci.tar()) } else { oci.tar() };
        // One byte at a time: a pipe may give no more.
        struct Slow(Cursor<Vec<u8>>);
        impl Read for Slow {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                let end = buffer.len().min(7);
                self.0.read(&mut buffer[..end])
            }
        }
        let imported = store.import(Slow(Cursor::new(bytes)), None).unwrap();
        assert_eq!(imported[0].names, ["killick.local/busybox:1"]);
        let found = store.resolve("killick.local/busybox:1").unwrap().unwrap();
        assert_eq!(found.id, imported[0].id);
        assert_eq!(found.config.cmd, ["sh"]);
        assert_eq!(found.created, "2024-01-02T03:04:05Z");
        assert_eq!(found.size_bytes, 2);
        assert_eq!(fs::read_to_string(found.layers[0].join("a")).unwrap(), "a");
        assert_eq!(fs::read_to_string(found.layers[1].join("b")).unwrap(), "b");
        assert_eq!(fs::metadata(dir.path().join("images/layers")).unwrap().mode() & 0o777, 0o700);
        assert_eq!(store.resolve(&found.id).unwrap().unwrap(), found);
        let by_manifest = format!("killick.local/busybox@{}", found.manifest.clone().unwrap());
        assert_eq!(store.resolve(&by_manifest).unwrap().unwrap(), found);
        assert!(store.resolve("killick.local/busybox:2").unwrap().is_none());
        assert!(fs::read_dir(dir.path().join("images/tmp")).unwrap().next().is_none());
    }
}

#[test]
fn the_stream_is_read_to_its_end_and_its_checksum_is_checked() {
    let (_dir, store) = store();
    let mut bytes = image("killick.local/a:1", &[layer("a")]).into_inner();
    bytes.resize(bytes.len().next_multiple_of(10240) + 10240, 0);
    let mut stream = Cursor::new(bytes.clone());
    store.import(&mut stream, None).unwrap();
    assert_eq!(stream.position(), bytes.len() as u64);
    let mut compressed = gzip(&bytes);
    let checksum = compressed.len() - 8;
    compressed[checksum] ^= 1;
    let error = store.import(Cursor::new(compressed), Some("b")).unwrap_err();
    assert_eq!(error.to_string(), "archive: corrupt gzip stream does not have a matching checksum");
}

#[test]
fn a_docker_archive_is_imported_with_all_its_tags_and_linked_layers() {
    let (_dir, store) = store();
    let bytes = docker_archive(json!(["busybox:1", "busybox:latest"]), &[layer("a"), layer("b"), layer("a")]);
    store.import(Cursor::new(gzip(&bytes)), None).unwrap();
    for name in ["busybox", "docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:1"] {
        let found = store.resolve(name).unwrap().unwrap_or_else(|| panic!("{name}"));
        assert_eq!(found.config.entrypoint, ["/e"]);
        assert_eq!(found.layers.len(), 3);
        assert_eq!(found.layers[0], found.layers[2]);
        assert_eq!(found.names, ["docker.io/library/busybox:1", "docker.io/library/busybox:latest"]);
    }
}

#[test]
fn an_archive_without_a_name_needs_one_and_a_given_name_wins() {
    let (_dir, store) = store();
    let unnamed = docker_archive(json!(null), &[layer("a")]);
    let error = store.import(Cursor::new(&unnamed), None).unwrap_err();
    assert_eq!(error.to_string(), "the archive gives its image no name; give it one with --name");
    let imported = store.import(Cursor::new(&unnamed), Some("mine")).unwrap();
    assert_eq!(imported[0].names, ["docker.io/library/mine:latest"]);
    store.import(image("killick.local/a:1", &[layer("b")]), Some("killick.local/b:2")).unwrap();
    assert!(store.resolve("killick.local/a:1").unwrap().is_none());
    assert!(store.resolve("killick.local/b:2").unwrap().is_some());
    let mut two = Oci::new();
    two.image("killick.local/a:1", &[layer("a")], false);
    two.image("killick.local/b:1", &[layer("b")], false);
    let error = store.import(Cursor::new(two.tar()), Some("x")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the archive holds 2 images (killick.local/a:1, killick.local/b:1); one name does not fit them"
    );
    assert_eq!(store.import(Cursor::new(two.tar()), None).unwrap().len(), 2);
    let error = store.import(image("x.y/z", &[layer("a")]), Some("UPPER")).unwrap_err();
    assert!(error.to_string().starts_with("couldn't parse image name \"UPPER\": invalid reference format"), "{error}");
}

#[test]
fn one_archive_may_give_one_image_several_names() {
    let (_dir, store) = store();
    let mut oci = Oci::new();
    let mut second = oci.image("killick.local/a:1", &[layer("a")], true);
    second["annotations"] =
        json!({"io.containerd.image.name": "example.test/b:2", "org.opencontainers.image.ref.name": "2"});
    oci.manifests.push(second);
    let imported = store.import(Cursor::new(oci.tar()), None).unwrap();
    assert_eq!(imported.len(), 1);
    assert_eq!(imported[0].names, ["example.test/b:2", "killick.local/a:1"]);
}

#[test]
fn of_several_platforms_this_one_is_chosen_and_a_foreign_image_is_refused_by_name() {
    let (_dir, store) = store();
    let mut oci = Oci::new();
    let mut foreign = oci.manifest(&[layer("foreign")], &json!({}), false);
    foreign["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let mut native = oci.manifest(&[layer("native")], &json!({}), false);
    native["platform"] = json!({"os": "linux", "architecture": arch()});
    let mut index = oci.json(&json!({"schemaVersion": 2, "manifests": [foreign, native]}));
    index["annotations"] = json!({"org.opencontainers.image.ref.name": "killick.local/multi:1"});
    oci.manifests.push(index);
    store.import(Cursor::new(oci.tar()), None).unwrap();
    let found = store.resolve("killick.local/multi:1").unwrap().unwrap();
    assert!(found.layers[0].join("native").exists());

    let mut oci = Oci::new();
    let mut foreign = oci.manifest(&[layer("foreign")], &json!({}), false);
    foreign["platform"] = json!({"os": "linux", "architecture": "arm", "variant": "v7"});
    oci.manifests.push(foreign);
    let error = store.import(Cursor::new(oci.tar()), Some("x")).unwrap_err();
    assert_eq!(error.to_string(), format!("the archive has no image for linux/{}; it has linux/arm/v7", arch()));
}

#[test]
fn names_can_be_added_and_taken_and_the_last_one_takes_the_image_unless_it_is_used() {
    let (dir, store) = store();
    store.import(image("killick.local/a:1", &[layer("shared"), layer("a")]), None).unwrap();
    store.import(image("killick.local/b:1", &[layer("shared"), layer("b")]), None).unwrap();
    let (a, b) =
        (store.resolve("killick.local/a:1").unwrap().unwrap(), store.resolve("killick.local/b:1").unwrap().unwrap());
    assert_eq!(a.layers[0], b.layers[0]);
    store.tag("killick.local/a:1", "other").unwrap();
    let listed: Vec<_> = store.list().unwrap().into_iter().map(|l| (l.repository, l.tag, l.id)).collect();
    assert_eq!(
        listed,
        [
            ("docker.io/library/other".to_owned(), "latest".to_owned(), a.id.clone()),
            ("killick.local/a".to_owned(), "1".to_owned(), a.id.clone()),
            ("killick.local/b".to_owned(), "1".to_owned(), b.id.clone()),
        ]
    );
    let users = [User { image_id: a.id.clone(), who: "pod default/web".to_owned() }];
    assert_eq!(store.remove("other", &users).unwrap().deleted, None);
    let error = store.remove("killick.local/a:1", &users).unwrap_err();
    assert_eq!(error.to_string(), "image \"killick.local/a:1\" is used by pod default/web; delete the pod first");
    assert_eq!(store.remove("killick.local/a:1", &[]).unwrap().deleted, Some(a.id));
    assert!(a.layers[0].exists(), "the other image has it too");
    assert!(!a.layers[1].exists());
    assert!(matches!(store.remove("killick.local/a:1", &[]), Err(Error::NotFound(_))));
    store.remove(&b.id, &[]).unwrap();
    assert_eq!(leftovers(&dir.path().join("images")), Vec::<String>::new());
}

#[test]
fn a_name_that_moves_on_leaves_the_old_image_listed_without_a_name() {
    let (_dir, store) = store();
    store.import(image("killick.local/a:1", &[layer("old")]), None).unwrap();
    let old = store.resolve("killick.local/a:1").unwrap().unwrap();
    store.import(image("killick.local/a:1", &[layer("new")]), None).unwrap();
    let listed = store.list().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!((listed[1].repository.as_str(), listed[1].id.as_str()), ("", old.id.as_str()));
    assert!(old.layers[0].exists(), "a pod may still run from it");
    store.remove(&old.id[..19], &[]).unwrap();
    assert!(!old.layers[0].exists());
}

#[test]
fn a_lost_layer_is_named_and_importing_again_mends_it() {
    let (_dir, store) = store();
    store.import(image("killick.local/a:1", &[layer("a")]), None).unwrap();
    let found = store.resolve("killick.local/a:1").unwrap().unwrap();
    fs::remove_dir_all(&found.layers[0]).unwrap();
    let error = store.resolve("killick.local/a:1").unwrap_err().to_string();
    assert!(error.contains("lacks its layer") && error.contains("import it again"), "{error}");
    store.import(image("killick.local/a:1", &[layer("a")]), None).unwrap();
    assert!(store.resolve("killick.local/a:1").unwrap().unwrap().layers[0].join("a").exists());
}

#[test]
fn implied_directories_take_their_attributes_from_the_layers_below() {
    let (_dir, store) = store();
    let below = Tar::default()
        .push(Header::new(b"./", b'5', 0).mode(0o711).owner(5, 6), b"")
        .push(Header::new(b"./srv", b'5', 0).mode(0o2770).owner(7, 8), b"")
        .finish();
    let above = Tar::default().file("srv/file", b"x").finish();
    store.import(image("killick.local/a:1", &[below, above.clone()]), None).unwrap();
    let found = store.resolve("killick.local/a:1").unwrap().unwrap();
    let srv = fs::metadata(found.layers[1].join("srv")).unwrap();
    assert_eq!((srv.mode() & 0o7777, srv.uid(), srv.gid()), (0o2770, 7, 8));
    let root = fs::metadata(&found.layers[1]).unwrap();
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o711, 5, 6));
    // The same layer alone is another directory: nothing below gives it attributes.
    store.import(image("killick.local/b:1", &[above]), None).unwrap();
    let alone = store.resolve("killick.local/b:1").unwrap().unwrap();
    assert_ne!(alone.layers[0], found.layers[1]);
    assert_eq!(fs::metadata(alone.layers[0].join("srv")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn owners_modes_times_setuid_capabilities_and_sparse_files_are_kept() {
    let (_dir, store) = store();
    // VFS_CAP_REVISION_2, CAP_NET_BIND_SERVICE effective.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut tar = Tar::default();
    tar.dir("./", 0o755);
    tar.push(Header::new(b"./su", b'0', 2).mode(0o4755).owner(0, 42), b"su");
    tar.pax(&[
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("mtime", b"12.5"),
    ]);
    tar.push(Header::new(b"./ping", b'0', 1).mode(0o755).owner(1000, 1000), b"p");
    tar.push(Header::new(b"./tmp", b'5', 0).mode(0o1777), b"");
    tar.file("./tmp/later", b"");
    tar.push(Header::new(b"./null", b'3', 0).mode(0o666).device(1, 3), b"");
    tar.push(&mut Header::new(b"./pipe", b'6', 0), b"");
    tar.hard_link("./su2", "su");
    let long = format!("./{}/{}", "d".repeat(200), "f".repeat(200));
    tar.pax(&[("path", long.as_bytes())]).file("short", b"long name");
    // PAX sparse 1.0: the map is the first block of the data.
    let mut data = b"2\n4096\n3\n1048576\n0\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abc");
    tar.pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"./holes"),
        ("GNU.sparse.realsize", b"1048576"),
    ])
    .file("GNUSparseFile.0/holes", &data);
    // The older form, with a map in the header.
    let mut old = Header::new(b"./old-holes", b'S', 3);
    old.octal(386, 12, 8192).octal(398, 12, 3).octal(483, 12, 10000);
    old.bytes[257..265].copy_from_slice(b"ustar  \0");
    tar.push(&mut old, b"xyz");
    store.import(image("killick.local/a:1", &[tar.finish()]), None).unwrap();
    let root = store.resolve("killick.local/a:1").unwrap().unwrap().layers[0].clone();
    let stat = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!((stat("su").mode(), stat("su").uid(), stat("su").gid()), (0o104755, 0, 42));
    assert_eq!(stat("su2").ino(), stat("su").ino());
    assert_eq!(stat("su").mtime(), 1_000_000_000);
    assert_eq!((stat("ping").mtime(), stat("ping").mtime_nsec()), (12, 500_000_000));
    assert_eq!((stat("tmp").mode() & 0o7777, stat("tmp").mtime()), (0o1777, 1_000_000_000));
    assert_eq!((stat("null").rdev(), stat("null").permissions().mode() & 0o777), (0x103, 0o666));
    assert_eq!(stat("pipe").mode() & 0o170_000, 0o010_000);
    assert_eq!(fs::read(root.join(&long)).unwrap(), b"long name");
    let holes = fs::read(root.join("holes")).unwrap();
    assert_eq!((holes.len(), &holes[4096..4099], holes[4095]), (1_048_576, &b"abc"[..], 0));
    assert!(stat("holes").blocks() * 512 < 100_000);
    let old = fs::read(root.join("old-holes")).unwrap();
    assert_eq!((old.len(), &old[8192..8195]), (10000, &b"xyz"[..]));
    let dir = fs::File::open(&root).unwrap();
    let attribute = |name: &std::ffi::CStr| {
        killick_sys::xattr::get(std::os::fd::AsFd::as_fd(&dir), std::ffi::OsStr::new("ping"), name).unwrap()
    };
    assert_eq!(attribute(c"security.capability"), Some(capability.to_vec()));
    assert_eq!(attribute(c"trusted.overlay.opaque"), None);
}

#[test]
fn concurrent_imports_and_a_killed_one_leave_a_whole_store() {
    let (dir, store) = store();
    let abandoned = dir.path().join("images/tmp/99999-0/layers/x");
    fs::create_dir_all(&abandoned).unwrap();
    fs::create_dir_all(dir.path().join("images/layers/orphan")).unwrap();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let store = store.clone();
            scope.spawn(move || {
                let layers = [layer("shared"), layer(&format!("own{}", n % 4))];
                store.import(image(&format!("killick.local/i:{n}"), &layers), None).unwrap();
            });
        }
    });
    assert!(!abandoned.exists() && !dir.path().join("images/layers/orphan").exists());
    assert_eq!(store.list().unwrap().len(), 8);
    for n in 0..8 {
        let found = store.resolve(&format!("killick.local/i:{n}")).unwrap().unwrap();
        assert!(found.layers[0].join("shared").exists() && found.layers[1].join(format!("own{}", n % 4)).exists());
    }
    assert_eq!(fs::read_dir(dir.path().join("images/layers")).unwrap().count(), 5);
}

/// The tar writer that most layers come from, in each of its formats.
#[test]
fn what_gnu_tar_writes_is_read_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let long = "n".repeat(180);
    fs::create_dir_all(tree.join(&long)).unwrap();
    fs::write(tree.join(&long).join(&long), "deep").unwrap();
    let mut holes = fs::File::create(tree.join("holes")).unwrap();
    for at in 0..30u64 {
        std::io::Seek::seek(&mut holes, std::io::SeekFrom::Start(at * 100_000)).unwrap();
        std::io::Write::write_all(&mut holes, &[at as u8 + 1; 100]).unwrap();
    }
    holes.set_len(5_000_000).unwrap();
    fs::hard_link(tree.join("holes"), tree.join("same")).unwrap();
    std::os::unix::fs::symlink(&long, tree.join("link")).unwrap();
    std::os::unix::fs::lchown(tree.join("link"), Some(3_000_000), Some(5)).unwrap();
    let formats: [&[&str]; 5] = [
        &["--format=gnu", "--sparse"],
        &["--format=oldgnu", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
    ];
    for format in formats {
        let (_dir, store) = store();
        let tar = Command::new("tar").args(format).arg("-C").arg(&tree).args(["-c", "."]).output().unwrap();
        assert!(tar.status.success(), "{format:?}");
        store.import(image("killick.local/gnu:1", &[tar.stdout]), None).unwrap();
        let root = store.resolve("killick.local/gnu:1").unwrap().unwrap().layers[0].clone();
        assert_eq!(fs::read(root.join("holes")).unwrap(), fs::read(tree.join("holes")).unwrap(), "{format:?}");
        assert!(fs::metadata(root.join("holes")).unwrap().blocks() < 1000, "{format:?}");
        assert_eq!(fs::read(root.join(&long).join(&long)).unwrap(), b"deep");
        assert_eq!(fs::metadata(root.join("same")).unwrap().nlink(), 2);
        let link = fs::symlink_metadata(root.join("link")).unwrap();
        assert_eq!((link.uid(), link.gid()), (3_000_000, 5), "{format:?}");
        let (made, read) = (fs::metadata(tree.join("holes")).unwrap(), fs::metadata(root.join("holes")).unwrap());
        assert_eq!(made.mtime(), read.mtime());
    }
}

#[test]
fn a_changed_configuration_on_disk_is_noticed() {
    let (dir, store) = store();
    let imported = store.import(image("killick.local/a:1", &[layer("a")]), None).unwrap();
    let blob = dir.path().join("images/blobs").join(&imported[0].id[7..]);
    fs::write(&blob, b"{}").unwrap();
    assert!(matches!(store.resolve("killick.local/a:1"), Err(Error::Damaged { .. })));
    store.import(image("killick.local/a:1", &[layer("a")]), None).unwrap();
    assert!(store.resolve("killick.local/a:1").unwrap().is_some());
}

#[test]
fn limits_are_named_when_they_are_passed() {
    let check = |limits: Limits, layers: &[Vec<u8>], expected: &str| {
        let (dir, store) = store();
        let store = store.with_limits(limits);
        let error = store.import(image("killick.local/a:1", layers), None).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(leftovers(&dir.path().join("images")), Vec::<String>::new());
    };
    let big = Tar::default().file("a", &[b'x'; 3000]).file("b", &[b'x'; 3000]).finish();
    let limits = Limits::default();
    check(
        Limits { unpacked_bytes: 5000, ..limits },
        std::slice::from_ref(&big),
        "unpacked image is larger than the limit of 5000 (unpacked_bytes)",
    );
    check(
        Limits { entries: 1, ..limits },
        std::slice::from_ref(&big),
        "number of files in the image is larger than the limit of 1 (entries)",
    );
    check(
        Limits { layers: 1, ..limits },
        &[layer("a"), layer("b")],
        "number of layers is larger than the limit of 1 (layers)",
    );
    check(
        Limits { archive_bytes: 2000, ..limits },
        std::slice::from_ref(&big),
        "archive is larger than the limit of 2000 (archive_bytes)",
    );
    check(
        Limits { config_bytes: 100, ..limits },
        &[layer("a")],
        "index.json is larger than the limit of 100 (config_bytes)",
    );
    assert_eq!(sha256(b"").len(), 71);
}

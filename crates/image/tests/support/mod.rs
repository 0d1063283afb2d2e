//! Archives as tests need them: honest ones, and ones that no honest writer makes.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Cursor, Write};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A tar written block by block, so that every field can lie.
#[derive(Default, Clone)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

pub(crate) struct Header {
    pub(crate) bytes: [u8; 512],
}

impl Header {
    pub(crate) fn new(name: &[u8], kind: u8, size: u64) -> Header {
        let mut header = Header { bytes: [0; 512] };
        header.bytes[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        header.octal(100, 8, 0o644);
        header.octal(108, 8, 0);
        header.octal(116, 8, 0);
        header.octal(124, 12, size);
        header.octal(136, 12, 1_000_000_000);
        header.bytes[156] = kind;
        header.bytes[257..265].copy_from_slice(b"ustar\x0000");
        header
    }

    pub(crate) fn octal(&mut self, at: usize, width: usize, value: u64) -> &mut Header {
        let text = format!("{value:0>width$o}", width = width - 1);
        self.bytes[at..at + width - 1].copy_from_slice(text.as_bytes());
        self.bytes[at + width - 1] = 0;
        self
    }

    pub(crate) fn mode(&mut self, mode: u32) -> &mut Header {
        self.octal(100, 8, u64::from(mode))
    }

    pub(crate) fn owner(&mut self, uid: u32, gid: u32) -> &mut Header {
        self.octal(108, 8, u64::from(uid)).octal(116, 8, u64::from(gid))
    }

    pub(crate) fn link(&mut self, target: &[u8]) -> &mut Header {
        self.bytes[157..157 + target.len()].copy_from_slice(target);
        self
    }

    pub(crate) fn device(&mut self, major: u64, minor: u64) -> &mut Header {
        self.octal(329, 8, major).octal(337, 8, minor)
    }
}

impl Tar {
    pub(crate) fn push(&mut self, header: &mut Header, data: &[u8]) -> &mut Tar {
        header.bytes[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.bytes.iter().map(|byte| u32::from(*byte)).sum();
        header.bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header.bytes);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(&mut self, name: &str, data: &[u8]) -> &mut Tar {
        self.push(&mut Header::new(name.as_bytes(), b'0', data.len() as u64), data)
    }

    pub(crate) fn dir(&mut self, name: &str, mode: u32) -> &mut Tar {
        self.push(Header::new(name.as_bytes(), b'5', 0).mode(mode), b"")
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> &mut Tar {
        self.push(Header::new(name.as_bytes(), b'2', 0).link(target.as_bytes()), b"")
    }

    pub(crate) fn hard_link(&mut self, name: &str, target: &str) -> &mut Tar {
        self.push(Header::new(name.as_bytes(), b'1', 0).link(target.as_bytes()), b"")
    }

    /// PAX records for the entry that follows.
    pub(crate) fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Tar {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.push(&mut Header::new(b"PaxHeaders/x", b'x', data.len() as u64), &data)
    }

    pub(crate) fn finish(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.extend_from_slice(&[0; 1024]);
        bytes
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An OCI layout in the making.
pub(crate) struct Oci {
    pub(crate) blobs: Vec<(String, Vec<u8>)>,
    pub(crate) manifests: Vec<Value>,
}

impl Oci {
    pub(crate) fn new() -> Oci {
        Oci { blobs: Vec::new(), manifests: Vec::new() }
    }

    pub(crate) fn blob(&mut self, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let size = bytes.len();
        self.blobs.push((digest.clone(), bytes));
        json!({"digest": digest, "size": size})
    }

    pub(crate) fn json(&mut self, value: &Value) -> Value {
        self.blob(serde_json::to_vec(value).unwrap())
    }

    /// A manifest blob of these layer tars; its descriptor.
    pub(crate) fn manifest(&mut self, layers: &[Vec<u8>], config: &Value, compress: bool) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
        let descriptors: Vec<Value> =
            layers.iter().map(|layer| self.blob(if compress { gzip(layer) } else { layer.clone() })).collect();
        let config = self
            .json(&json!({"architecture": arch(), "os": "linux", "created": "2024-01-02T03:04:05Z", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}}));
        self.json(&json!({"schemaVersion": 2, "config": config, "layers": descriptors}))
    }

    pub(crate) fn image(&mut self, name: &str, layers: &[Vec<u8>], compress: bool) -> Value {
        let mut descriptor = self.manifest(layers, &json!({"Cmd": ["sh"]}), compress);
        descriptor["annotations"] = json!({"io.containerd.image.name": name});
        self.manifests.push(descriptor.clone());
        descriptor
    }

    /// Index first, as some writers have it, blobs after.
    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut tar = Tar::default();
        tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        tar.file("index.json", &serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": self.manifests})).unwrap());
        for (digest, bytes) in &self.blobs {
            tar.file(&format!("blobs/sha256/{}", &digest[7..]), bytes);
        }
        tar.finish()
    }
}

pub(crate) fn arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// A one-image archive of these layers.
pub(crate) fn image(name: &str, layers: &[Vec<u8>]) -> Cursor<Vec<u8>> {
    let mut oci = Oci::new();
    oci.image(name, layers, false);
    Cursor::new(oci.tar())
}

/// As `docker save` wrote it before it wrote OCI layouts.
pub(crate) fn docker_archive(tags: Value, layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
    let config = serde_json::to_vec(&json!({"architecture": arch(), "os": "linux", "config": {"Entrypoint": ["/e"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}}))
    .unwrap();
    let config_name = format!("{}.json", &sha256(&config)[7..]);
    let mut tar = Tar::default();
    let mut names = Vec::new();
    for (n, layer) in layers.iter().enumerate() {
        let name = format!("{n}/layer.tar");
        match layers[..n].iter().position(|known| known == layer) {
            Some(known) => tar.symlink(&name, &format!("../{known}/layer.tar")),
            None => tar.file(&name, layer),
        };
        names.push(name);
    }
    tar.file(&config_name, &config);
    tar.file(
        "manifest.json",
        &serde_json::to_vec(&json!([{"Config": config_name, "RepoTags": tags, "Layers": names}])).unwrap(),
    );
    tar.finish()
}

//! What an image archive says: its files spooled to disk with their digests, and which of them make an image.
//!
//! The stream cannot be read twice and its index may come last, so everything is kept first. Names inside the archive are
//! keys of a map and never become paths.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::or_default;
use crate::digest::{self, Hashing};
use crate::error::Error;
use crate::reference::{self, Reference};
use crate::store::Limits;
use crate::tar::{Kind, Reader};
use crate::unpack::{read_error, shown};

/// Files of an archive; an image has a handful.
const ARCHIVE_FILES_MAX: u64 = 10_000;
/// Indexes inside indexes.
const INDEX_DEPTH_MAX: usize = 4;
const LINKS_MAX: usize = 8;

/// A file of the archive, kept in the import's directory.
#[derive(Debug, Clone)]
pub(crate) struct Spooled {
    pub(crate) path: PathBuf,
    pub(crate) digest: String,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
enum Member {
    File(Spooled),
    /// Old `docker save` writes a layer that occurs twice as a link.
    Link(String),
}

#[derive(Debug, Default)]
pub(crate) struct Archive {
    members: HashMap<String, Member>,
}

/// One image of the archive, all its parts present.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) names: Vec<Reference>,
    pub(crate) manifest: Option<String>,
    pub(crate) config: Spooled,
    pub(crate) layers: Vec<Spooled>,
}

/// Reads the archive to its end into `dir`.
pub(crate) fn spool(
    source: impl Read,
    dir: &Path,
    limits: &Limits,
    disk: impl Fn(io::Error, &str) -> Error,
) -> Result<Archive, Error> {
    let source = decompressed(source).map_err(|error| read_error(error, "archive"))?;
    let mut reader = Reader::new(Limited {
        source,
        left: limits.archive_bytes,
        what: "archive",
        name: "archive_bytes",
        limit: limits.archive_bytes,
    });
    let mut archive = Archive::default();
    let mut files = 0;
    loop {
        let entry = match reader.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(error) if archive.members.is_empty() && error.kind() == io::ErrorKind::InvalidData => {
                return Err(not_an_archive(&error.to_string()));
            }
            Err(error) => return Err(read_error(error, "archive")),
        };
        files += 1;
        if files > ARCHIVE_FILES_MAX {
            return Err(Error::TooLarge {
                what: "number of files in the archive".to_owned(),
                name: "ARCHIVE_FILES_MAX",
                limit: ARCHIVE_FILES_MAX,
            });
        }
        let name = key(&entry.path)?;
        match entry.kind {
            Kind::File => {
                if entry.segments != [(0, entry.size)] {
                    return Err(Error::archive(format!("archive: {name} is a sparse file")));
                }
                let path = dir.join(format!("{files}"));
                let mut out =
                    Hashing::new(File::create_new(&path).map_err(|error| disk(error, "create a spool file"))?);
                let mut data = reader.data();
                let mut buffer = vec![0; 128 << 10];
                loop {
                    let read = match data.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(read) => read,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => return Err(read_error(error, &format!("archive: {name}"))),
                    };
                    out.write_all(&buffer[..read]).map_err(|error| disk(error, "write a spool file"))?;
                }
                let bytes = out.bytes;
                let (_, digest) = out.finish();
                check_blob_name(&name, &digest)?;
                archive.members.insert(name, Member::File(Spooled { path, digest, bytes }));
            }
            Kind::Symlink => {
                let target = key(&join(&name, &entry.link))?;
                archive.members.insert(name, Member::Link(target));
            }
            Kind::HardLink => {
                let target = key(&entry.link)?;
                archive.members.insert(name, Member::Link(target));
            }
            Kind::Directory => {}
            Kind::Char | Kind::Block | Kind::Fifo => {
                return Err(Error::archive(format!("archive: {name} is a device; an image archive holds files only")));
            }
        }
    }
    // A writer into a pipe shall not be cut off in its padding, and gzip's own checksum comes last.
    io::copy(&mut reader.into_inner(), &mut io::sink()).map_err(|error| read_error(error, "archive"))?;
    Ok(archive)
}

impl Archive {
    /// The archive's images for this machine. `name` overrides their own names.
    pub(crate) fn images(&self, name: Option<&str>, limits: &Limits) -> Result<Vec<Planned>, Error> {
        let name = name.map(given_name).transpose()?;
        let found = if self.members.contains_key("index.json") {
            self.oci(limits)?
        } else if self.members.contains_key("manifest.json") {
            self.docker(limits)?
        } else {
            return Err(not_an_archive("it has neither index.json (OCI layout) nor manifest.json (docker-archive)"));
        };
        let mut images: Vec<Planned> = Vec::new();
        for image in found {
            match images.iter_mut().find(|known| known.config.digest == image.config.digest) {
                Some(known) => known.names.extend(image.names),
                None => images.push(image),
            }
        }
        if let Some(name) = name {
            if images.len() > 1 {
                let names: Vec<String> =
                    images.iter().flat_map(|image| &image.names).map(Reference::to_string).collect();
                return Err(Error::archive(format!(
                    "the archive holds {} images ({}); one name does not fit them",
                    images.len(),
                    names.join(", ")
                )));
            }
            images.iter_mut().for_each(|image| image.names = vec![name.clone()]);
        }
        match images.iter().find(|image| image.names.is_empty()) {
            Some(_) => Err(Error::archive("the archive gives its image no name; give it one with --name")),
            None if images.is_empty() => Err(Error::archive("the archive holds no image")),
            None => Ok(images),
        }
    }

    fn oci(&self, limits: &Limits) -> Result<Vec<Planned>, Error> {
        if self.members.contains_key("oci-layout") {
            let layout: OciLayout = self.json("oci-layout", limits)?;
            if !layout.version.starts_with("1.") {
                return Err(Error::archive(format!("OCI layout version \"{}\" is not known", layout.version)));
            }
        }
        let index: OciIndex = self.json("index.json", limits)?;
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            index.manifests.iter().partition(|descriptor| descriptor.is_for_this_machine());
        if here.is_empty() && !elsewhere.is_empty() {
            return Err(wrong_platform(&elsewhere));
        }
        here.into_iter().map(|descriptor| self.oci_image(descriptor, limits)).collect()
    }

    fn oci_image(&self, named: &Descriptor, limits: &Limits) -> Result<Planned, Error> {
        let names = named.names()?;
        let mut descriptor = named.clone();
        for _ in 0..INDEX_DEPTH_MAX {
            let blob = self.blob(&descriptor)?;
            let manifest: OciManifest = parse(blob, limits, &descriptor.digest)?;
            if manifest.manifests.is_empty() {
                if manifest.layers.is_empty() && manifest.config.is_none() {
                    return Err(Error::archive(format!(
                        "{} is neither a manifest nor an index of any",
                        descriptor.digest
                    )));
                }
                return self.oci_manifest(names, &descriptor.digest, &manifest);
            }
            descriptor = match manifest.manifests.iter().find(|inner| inner.is_for_this_machine()) {
                Some(inner) => inner.clone(),
                None => return Err(wrong_platform(&manifest.manifests.iter().collect::<Vec<_>>())),
            };
        }
        Err(Error::archive(format!("indexes nested deeper than {INDEX_DEPTH_MAX} (INDEX_DEPTH_MAX)")))
    }

    fn oci_manifest(&self, names: Vec<Reference>, id: &str, manifest: &OciManifest) -> Result<Planned, Error> {
        let config =
            manifest.config.as_ref().ok_or_else(|| Error::archive(format!("manifest {id} names no configuration")))?;
        let layers = manifest.layers.iter().map(|layer| {
            if layer.media_type.contains("zstd") {
                return Err(zstd(&layer.digest));
            }
            if !layer.urls.is_empty() && !self.members.contains_key(&blob_key(&layer.digest)?) {
                return Err(Error::archive(format!(
                    "layer {} is not in the archive but at {}",
                    layer.digest, layer.urls[0]
                )));
            }
            self.blob(layer).cloned()
        });
        Ok(Planned {
            names,
            manifest: Some(id.to_owned()),
            config: self.blob(config)?.clone(),
            layers: layers.collect::<Result<_, _>>()?,
        })
    }

    fn docker(&self, limits: &Limits) -> Result<Vec<Planned>, Error> {
        let manifests: Vec<DockerManifest> = self.json("manifest.json", limits)?;
        let image = |manifest: &DockerManifest| {
            let config = self.member(&manifest.config)?;
            let stem = manifest.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
            let claimed = format!("{}{}", digest::PREFIX, stem.trim_start_matches(digest::PREFIX));
            if digest::hex(&claimed).is_some() && claimed != config.digest {
                return Err(Error::archive(format!(
                    "{}: its content has the digest {}",
                    manifest.config, config.digest
                )));
            }
            Ok(Planned {
                names: manifest
                    .repo_tags
                    .iter()
                    .map(|tag| Ok(reference::normalise(tag)?))
                    .collect::<Result<_, Error>>()?,
                manifest: None,
                config: config.clone(),
                layers: manifest.layers.iter().map(|layer| self.member(layer).cloned()).collect::<Result<_, _>>()?,
            })
        };
        manifests.iter().map(image).collect()
    }

    /// A blob by its descriptor; its digest was checked when it was read, its size is checked here.
    fn blob(&self, descriptor: &Descriptor) -> Result<&Spooled, Error> {
        let spooled = self.member(&blob_key(&descriptor.digest)?)?;
        match spooled.bytes == descriptor.size {
            true => Ok(spooled),
            false => Err(Error::archive(format!(
                "blob {} has {} bytes; its descriptor says {}",
                descriptor.digest, spooled.bytes, descriptor.size
            ))),
        }
    }

    fn member(&self, name: &str) -> Result<&Spooled, Error> {
        let mut name = key(name.as_bytes())?;
        for _ in 0..LINKS_MAX {
            match self.members.get(&name) {
                Some(Member::File(spooled)) => return Ok(spooled),
                Some(Member::Link(target)) => name = target.clone(),
                None => return Err(Error::archive(format!("the archive lacks {name}, which its manifest names"))),
            }
        }
        Err(Error::archive(format!("archive: {name}: too many links")))
    }

    fn json<T: DeserializeOwned>(&self, name: &str, limits: &Limits) -> Result<T, Error> {
        parse(self.member(name)?, limits, name)
    }
}

pub(crate) fn parse<T: DeserializeOwned>(spooled: &Spooled, limits: &Limits, name: &str) -> Result<T, Error> {
    let bytes = bytes(spooled, limits, name)?;
    serde_json::from_slice(&bytes).map_err(|error| Error::archive(format!("{}: {error}", shown(name.as_bytes()))))
}

/// A small file whole.
pub(crate) fn bytes(spooled: &Spooled, limits: &Limits, name: &str) -> Result<Vec<u8>, Error> {
    if spooled.bytes > limits.config_bytes {
        return Err(Error::TooLarge { what: shown(name.as_bytes()), name: "config_bytes", limit: limits.config_bytes });
    }
    std::fs::read(&spooled.path).map_err(|source| Error::Io { what: format!("read {name}"), source })
}

/// A layer's tar, whatever it is compressed with.
pub(crate) fn layer_tar(spooled: &Spooled, limits: &Limits) -> Result<impl Read + use<>, Error> {
    let file = File::open(&spooled.path)
        .map_err(|source| Error::Io { what: format!("open layer {}", spooled.digest), source })?;
    let source = decompressed(file).map_err(|error| read_error(error, &format!("layer {}", spooled.digest)))?;
    // Headers and padding come on top of what the files hold.
    let limit = limits.unpacked_bytes.saturating_add(limits.entries.saturating_mul(2048));
    Ok(Limited { source, left: limit, what: "layer", name: "unpacked_bytes", limit })
}

type Sniffed<R> = io::Chain<Cursor<Vec<u8>>, R>;

enum Source<R> {
    Plain(Sniffed<R>),
    Gzip(Box<MultiGzDecoder<BufReader<Sniffed<R>>>>),
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Plain(source) => source.read(buffer),
            Source::Gzip(source) => source.read(buffer),
        }
    }
}

/// Plain or gzip, by the first bytes; other compressions are refused by name.
fn decompressed<R: Read>(mut source: R) -> io::Result<Source<R>> {
    let mut start = Vec::new();
    (&mut source).take(6).read_to_end(&mut start)?;
    let refused = |name: &str| {
        let text = format!("compressed with {name}, which is not supported; use gzip or no compression");
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    };
    let kind = start.clone();
    let sniffed = Cursor::new(start).chain(source);
    match kind.as_slice() {
        [] => Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")),
        [0x1f, 0x8b, ..] => {
            Ok(Source::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(64 << 10, sniffed)))))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => refused("zstd"),
        [b'B', b'Z', b'h', ..] => refused("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => refused("xz"),
        _ => Ok(Source::Plain(sniffed)),
    }
}

/// Ends in an error with the limit's name instead of reading on for ever.
struct Limited<R> {
    source: R,
    left: u64,
    what: &'static str,
    name: &'static str,
    limit: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => {
                self.left = left;
                Ok(read)
            }
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                Error::TooLarge { what: self.what.to_owned(), name: self.name, limit: self.limit },
            )),
        }
    }
}

/// A name of the archive in one spelling.
fn key(path: &[u8]) -> Result<String, Error> {
    let text = std::str::from_utf8(path).map_err(|_| Error::archive(format!("archive: {}: not UTF-8", shown(path))))?;
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    match parts.contains(&"..") {
        true => Err(Error::archive(format!("archive: {}: a name with \"..\"", shown(path)))),
        false => Ok(parts.join("/")),
    }
}

/// Where a symbolic link of the archive points, among the archive's own names.
fn join(link: &str, target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = link.as_bytes().split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b".." if !parts.is_empty() => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

fn blob_key(digest: &str) -> Result<String, Error> {
    match digest::hex(digest) {
        Some(hex) => Ok(format!("blobs/sha256/{hex}")),
        None => Err(Error::archive(format!("\"{}\" is not a sha256 digest", shown(digest.as_bytes())))),
    }
}

fn check_blob_name(name: &str, digest: &str) -> Result<(), Error> {
    match name.strip_prefix("blobs/sha256/") {
        Some(hex) if digest.strip_prefix(digest::PREFIX) != Some(hex) => {
            Err(Error::archive(format!("{}: its content has the digest {digest}", shown(name.as_bytes()))))
        }
        Some(_) | None => Ok(()),
    }
}

/// `--name`, which must be a name and not a digest.
fn given_name(name: &str) -> Result<Reference, Error> {
    let name = reference::normalise(name)?;
    match name.digest {
        None => Ok(name),
        Some(_) => {
            Err(Error::archive(format!("{name}: an image is named by a tag; its digest follows from its content")))
        }
    }
}

fn zstd(digest: &str) -> Error {
    Error::archive(format!("layer {digest}: compressed with zstd, which is not supported; use gzip or no compression"))
}

fn wrong_platform(found: &[&Descriptor]) -> Error {
    let mut found: Vec<String> = found.iter().filter_map(|d| d.platform.as_ref()).map(Platform::to_string).collect();
    found.sort_unstable();
    found.dedup();
    Error::archive(format!("the archive has no image for linux/{}; it has {}", this_architecture(), found.join(", ")))
}

/// Go's name for this machine, as images have it.
pub(crate) fn this_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[derive(Debug, Deserialize)]
struct OciLayout {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

#[derive(Debug, Deserialize)]
struct OciIndex {
    #[serde(default, deserialize_with = "or_default")]
    manifests: Vec<Descriptor>,
}

/// A manifest or an index: what it has says which.
#[derive(Debug, Deserialize)]
struct OciManifest {
    #[serde(default, deserialize_with = "or_default")]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default, deserialize_with = "or_default")]
    layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default, deserialize_with = "or_default")]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, deserialize_with = "or_default")]
    annotations: HashMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    urls: Vec<String>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Platform {
    os: String,
    architecture: String,
    variant: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default, deserialize_with = "or_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    layers: Vec<String>,
}

impl Descriptor {
    /// Without a platform it may be; its configuration decides then.
    fn is_for_this_machine(&self) -> bool {
        match &self.platform {
            None => true,
            Some(platform) => platform.os == "linux" && platform.architecture == this_architecture(),
        }
    }

    /// containerd's full name first. `ref.name` may be only a tag, which names nothing.
    fn names(&self) -> Result<Vec<Reference>, Error> {
        let full = self.annotations.get("io.containerd.image.name");
        let short = self.annotations.get("org.opencontainers.image.ref.name");
        match full.or(short.filter(|name| name.contains(['/', ':']))) {
            Some(name) => Ok(vec![reference::normalise(name)?]),
            None => Ok(Vec::new()),
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", shown(self.os.as_bytes()), shown(self.architecture.as_bytes()))?;
        match self.variant.is_empty() {
            true => Ok(()),
            false => write!(f, "/{}", shown(self.variant.as_bytes())),
        }
    }
}

fn not_an_archive(why: &str) -> Error {
    Error::archive(format!("not an image archive: {why}"))
}

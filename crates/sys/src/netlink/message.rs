//! Netlink's bytes: headers, attributes, nests; everything padded to 4.

const ALIGN: usize = 4;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

pub(super) fn align(length: usize) -> usize {
    length.div_ceil(ALIGN) * ALIGN
}

/// A message being written. The name is what an error shows: `RTM_NEWLINK(killick0, bridge)`.
#[derive(Debug)]
pub(super) struct Request {
    kind: u16,
    flags: u16,
    name: String,
    body: Vec<u8>,
}

impl Request {
    /// `header` is the family's fixed part; `flags` are added to those that every request has.
    pub(super) fn new(kind: u16, flags: u16, name: impl Into<String>, header: &[u8]) -> Request {
        let mut body = header.to_vec();
        body.resize(align(body.len()), 0);
        Request { kind, flags, name: name.into(), body }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        put(&mut self.body, kind, value);
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.attr(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    pub(super) fn nest(mut self, kind: u16, nest: Nest) -> Self {
        put(&mut self.body, kind | NLA_F_NESTED, &nest.0);
        self
    }

    pub(super) fn finish(self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = super::HEADER_BYTES + self.body.len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend((length as u32).to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend((self.flags | flags).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        // Port 0: the kernel fills in ours.
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(self.body);
        bytes
    }
}

/// Attributes inside an attribute.
#[derive(Debug, Default)]
pub(super) struct Nest(Vec<u8>);

impl Nest {
    /// Some nests begin with a fixed part (a veth's peer with its ifinfomsg).
    pub(super) fn after(header: &[u8]) -> Nest {
        Nest(header.to_vec())
    }

    pub(super) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        put(&mut self.0, kind, value);
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.attr(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// nf_tables' numbers are in network order.
    pub(super) fn be32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    pub(super) fn nest(mut self, kind: u16, nest: Nest) -> Self {
        put(&mut self.0, kind | NLA_F_NESTED, &nest.0);
        self
    }
}

fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(((ALIGN + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(align(bytes.len()), 0);
}

/// The messages of one datagram.
#[derive(Debug)]
pub(super) struct Parts(Vec<u8>);

#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

impl Parts {
    pub(super) fn new(bytes: Vec<u8>) -> Parts {
        Parts(bytes)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Part<'_>> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let length = u32_at(rest, 0)? as usize;
            let body = rest.get(super::HEADER_BYTES..length)?;
            let part = Part { kind: u16_at(rest, 4)?, flags: u16_at(rest, 6)?, sequence: u32_at(rest, 8)?, body };
            rest = rest.get(align(length)..).unwrap_or_default();
            Some(part)
        })
    }
}

/// The attributes of a message or a nest; malformed ones end the walk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Attributes<'a> {
        Attributes(bytes)
    }

    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        let mut rest = self.0;
        loop {
            let length = usize::from(u16_at(rest, 0)?);
            let value = rest.get(ALIGN..length)?;
            if u16_at(rest, 2)? & NLA_TYPE_MASK == kind {
                return Some(value);
            }
            rest = rest.get(align(length)..)?;
        }
    }

    pub(super) fn text(self, kind: u16) -> Option<String> {
        let value = self.get(kind)?;
        Some(String::from_utf8_lossy(value.split(|byte| *byte == 0).next()?).into_owned())
    }

    pub(super) fn u32(self, kind: u16) -> Option<u32> {
        u32_at(self.get(kind)?, 0)
    }

    pub(super) fn be32(self, kind: u16) -> Option<u32> {
        self.u32(kind).map(u32::from_be)
    }

    pub(super) fn nest(self, kind: u16) -> Option<Attributes<'a>> {
        self.get(kind).map(Attributes)
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let request =
            Request::new(16, 0, "x", &[7; 5]).text(3, "eth0").u32(4, 1500).nest(18, Nest::default().text(1, "veth"));
        let bytes = request.finish(5, 9);
        let parts = Parts::new([bytes.clone(), bytes].concat());
        let all: Vec<Part<'_>> = parts.iter().collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[1].kind, all[1].flags, all[1].sequence), (16, 5, 9));
        let attributes = Attributes::new(&all[1].body[8..]);
        assert_eq!(attributes.text(3).as_deref(), Some("eth0"));
        assert_eq!(attributes.u32(4), Some(1500));
        assert_eq!(attributes.nest(18).unwrap().text(1).as_deref(), Some("veth"));
        assert_eq!(attributes.get(99), None);
    }

    #[test]
    fn cut_bytes_end_the_walk() {
        let bytes = Request::new(16, 0, "x", &[]).text(3, "eth0").finish(5, 9);
        for cut in 0..bytes.len() {
            let parts = Parts::new(bytes[..cut].to_vec());
            assert_eq!(parts.iter().count(), 0, "{cut} bytes");
        }
        assert_eq!(Attributes::new(&[200, 0, 3, 0, 1]).get(3), None);
        assert_eq!(Attributes::new(&[0, 0, 3, 0]).get(3), None);
    }
}

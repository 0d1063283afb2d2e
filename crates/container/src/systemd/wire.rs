//! D-Bus messages as bytes (D-Bus specification, "Message Protocol"): only what talking to systemd needs, little-endian.
//!
//! Pure. Whatever a peer sends is either a message within the limits here or a `WireError`, never a panic.

/// systemd's answers are a few hundred bytes, its signals some ten thousand; D-Bus itself would allow 128 MiB.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Values within values; D-Bus allows 64.
const DEPTH_MAX: u32 = 16;
/// The fixed part, with the length of the header's fields.
pub const PREFIX_BYTES: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a message of {0} bytes; at most {MESSAGE_BYTES_MAX} are read")]
    TooLong(u64),
    #[error("not a D-Bus message: {0}")]
    Malformed(&'static str),
}

type Result<T> = std::result::Result<T, WireError>;

/// One value with its type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Bool(bool),
    Byte(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Text(String),
    Path(String),
    Signature(String),
    Bytes(Vec<u8>),
    Array { of: String, items: Vec<Value> },
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    pub fn texts(texts: impl IntoIterator<Item = String>) -> Value {
        Value::Array { of: "s".into(), items: texts.into_iter().map(Value::Text).collect() }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) | Value::Path(text) | Value::Signature(text) => Some(text),
            Value::Variant(inner) => inner.as_text(),
            _ => None,
        }
    }

    pub fn signature(&self) -> String {
        match self {
            Value::Bool(_) => "b".into(),
            Value::Byte(_) => "y".into(),
            Value::I16(_) => "n".into(),
            Value::U16(_) => "q".into(),
            Value::I32(_) => "i".into(),
            Value::U32(_) => "u".into(),
            Value::I64(_) => "x".into(),
            Value::U64(_) => "t".into(),
            Value::F64(_) => "d".into(),
            Value::Text(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::Bytes(_) => "ay".into(),
            Value::Array { of, .. } => format!("a{of}"),
            Value::Struct(fields) => format!("({})", signature_of(fields)),
            Value::Variant(_) => "v".into(),
        }
    }
}

fn signature_of(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Call,
    Return,
    Error,
    Signal,
    /// To be ignored, as the specification says.
    Unknown(u8),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub kind: Kind,
    pub serial: u32,
    pub path: Option<String>,
    pub interface: Option<String>,
    pub member: Option<String>,
    pub error_name: Option<String>,
    pub reply_serial: Option<u32>,
    pub destination: Option<String>,
    pub sender: Option<String>,
    pub body: Vec<Value>,
}

impl Message {
    pub fn new(kind: Kind, serial: u32) -> Message {
        Message {
            kind,
            serial,
            path: None,
            interface: None,
            member: None,
            error_name: None,
            reply_serial: None,
            destination: None,
            sender: None,
            body: Vec::new(),
        }
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        for value in &self.body {
            put(&mut body, value);
        }
        let kind = match self.kind {
            Kind::Call => 1,
            Kind::Return => 2,
            Kind::Error => 3,
            Kind::Signal => 4,
            Kind::Unknown(kind) => kind,
        };
        let mut bytes = vec![b'l', kind, 0, 1];
        put(&mut bytes, &Value::U32(body.len() as u32));
        put(&mut bytes, &Value::U32(self.serial));
        let text = |text: &Option<String>| text.clone().map(Value::Text);
        let signature = Some(signature_of(&self.body)).filter(|signature| !signature.is_empty());
        let fields = [
            (1, self.path.clone().map(Value::Path)),
            (2, text(&self.interface)),
            (3, text(&self.member)),
            (4, text(&self.error_name)),
            (5, self.reply_serial.map(Value::U32)),
            (6, text(&self.destination)),
            (7, text(&self.sender)),
            (8, signature.map(Value::Signature)),
        ];
        let items = fields
            .into_iter()
            .filter_map(|(code, value)| Some(Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value?))])));
        put(&mut bytes, &Value::Array { of: "(yv)".into(), items: items.collect() });
        pad(&mut bytes, 8);
        bytes.extend(body);
        if bytes.len() > MESSAGE_BYTES_MAX { Err(WireError::TooLong(bytes.len() as u64)) } else { Ok(bytes) }
    }

    /// How long the message is whose first `PREFIX_BYTES` are these.
    pub fn length(prefix: &[u8; PREFIX_BYTES]) -> Result<usize> {
        if prefix[0] != b'l' {
            return Err(WireError::Malformed("it is not little-endian"));
        }
        if prefix[3] != 1 {
            return Err(WireError::Malformed("another version of the protocol"));
        }
        let number =
            |at: usize| u64::from(u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]));
        let total = PREFIX_BYTES as u64 + number(12).next_multiple_of(8) + number(4);
        if total > MESSAGE_BYTES_MAX as u64 { Err(WireError::TooLong(total)) } else { Ok(total as usize) }
    }

    /// A whole message.
    pub fn from_bytes(bytes: &[u8]) -> Result<Message> {
        let prefix = bytes.first_chunk().ok_or(WireError::Malformed("it is too short"))?;
        if Message::length(prefix)? != bytes.len() {
            return Err(WireError::Malformed("its lengths do not agree"));
        }
        let kind = match bytes[1] {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            0 => return Err(WireError::Malformed("a message of no kind")),
            other => Kind::Unknown(other),
        };
        let mut reader = Reader { bytes, at: 8, depth: 0 };
        let serial = reader.u32()?;
        let mut message = Message::new(kind, serial);
        let mut signature = String::new();
        let Value::Array { items, .. } = reader.value("a(yv)")? else {
            return Err(WireError::Malformed("its header has no fields"));
        };
        for item in items {
            let Value::Struct(field) = item else { continue };
            let [Value::Byte(code), Value::Variant(value)] = field.as_slice() else { continue };
            match (code, value.as_ref()) {
                (1, Value::Path(path)) => message.path = Some(path.clone()),
                (2, Value::Text(text)) => message.interface = Some(text.clone()),
                (3, Value::Text(text)) => message.member = Some(text.clone()),
                (4, Value::Text(text)) => message.error_name = Some(text.clone()),
                (5, Value::U32(serial)) => message.reply_serial = Some(*serial),
                (6, Value::Text(text)) => message.destination = Some(text.clone()),
                (7, Value::Text(text)) => message.sender = Some(text.clone()),
                (8, Value::Signature(text)) => signature.clone_from(text),
                (1..=8, _) => return Err(WireError::Malformed("a header field of the wrong type")),
                _ => {}
            }
        }
        reader.align(8)?;
        let mut reader = Reader { bytes: &bytes[reader.at..], at: 0, depth: 0 };
        let mut rest = signature.as_str();
        while !rest.is_empty() {
            let (one, others) = split(rest)?;
            message.body.push(reader.value(one)?);
            rest = others;
        }
        Ok(message)
    }
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put(bytes: &mut Vec<u8>, value: &Value) {
    let mut number = |encoded: &[u8]| {
        pad(bytes, encoded.len());
        bytes.extend_from_slice(encoded);
    };
    match value {
        Value::Bool(value) => number(&u32::from(*value).to_le_bytes()),
        Value::Byte(value) => number(&[*value]),
        Value::I16(value) => number(&value.to_le_bytes()),
        Value::U16(value) => number(&value.to_le_bytes()),
        Value::I32(value) => number(&value.to_le_bytes()),
        Value::U32(value) => number(&value.to_le_bytes()),
        Value::I64(value) => number(&value.to_le_bytes()),
        Value::U64(value) => number(&value.to_le_bytes()),
        Value::F64(value) => number(&value.to_le_bytes()),
        Value::Text(text) | Value::Path(text) => {
            number(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        Value::Signature(text) => {
            bytes.push(text.len() as u8);
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        Value::Bytes(content) => {
            number(&(content.len() as u32).to_le_bytes());
            bytes.extend_from_slice(content);
        }
        Value::Array { of, items } => {
            number(&0u32.to_le_bytes());
            let length_at = bytes.len() - 4;
            // The padding before the first item is there without items too, and is not counted.
            pad(bytes, alignment(of));
            let start = bytes.len();
            items.iter().for_each(|item| put(bytes, item));
            let length = ((bytes.len() - start) as u32).to_le_bytes();
            bytes[length_at..length_at + 4].copy_from_slice(&length);
        }
        Value::Struct(fields) => {
            pad(bytes, 8);
            fields.iter().for_each(|field| put(bytes, field));
        }
        Value::Variant(inner) => {
            put(bytes, &Value::Signature(inner.signature()));
            put(bytes, inner);
        }
    }
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'y' | b'g' | b'v') => 1,
        Some(b'n' | b'q') => 2,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 4,
    }
}

/// The first complete type of a signature, and the rest.
fn split(signature: &str) -> Result<(&str, &str)> {
    let bytes = signature.as_bytes();
    let (mut open, mut at) = (0u32, 0);
    loop {
        match bytes.get(at) {
            // An array goes on to the end of its item.
            Some(b'a') => {
                at += 1;
                continue;
            }
            Some(b'(' | b'{') => open += 1,
            Some(b')' | b'}') if open > 0 => open -= 1,
            Some(byte) if b"ybnqiuxtdsogvh".contains(byte) => {}
            Some(_) => return Err(WireError::Malformed("an unknown type")),
            None => return Err(WireError::Malformed("an incomplete type")),
        }
        at += 1;
        if open == 0 {
            return Ok(signature.split_at(at));
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or(WireError::Malformed("a length out of range"))?;
        let taken = self.bytes.get(self.at..end).ok_or(WireError::Malformed("it ends within a value"))?;
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> Result<()> {
        let next = self.at.next_multiple_of(to);
        self.take(next - self.at).map(drop)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.align(N)?;
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| WireError::Malformed("it ends within a value"))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let text =
            std::str::from_utf8(self.take(length)?).map_err(|_| WireError::Malformed("text that is not UTF-8"))?;
        if self.take(1)? != [0] {
            return Err(WireError::Malformed("text without its end"));
        }
        Ok(text.to_owned())
    }

    fn value(&mut self, signature: &str) -> Result<Value> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(WireError::Malformed("values too deep within values"));
        }
        let value = self.value_of(signature);
        self.depth -= 1;
        value
    }

    fn value_of(&mut self, signature: &str) -> Result<Value> {
        let (first, inner) = signature.split_at_checked(1).ok_or(WireError::Malformed("an empty type"))?;
        Ok(match first {
            "y" => Value::Byte(u8::from_le_bytes(self.number()?)),
            "b" => match self.u32()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return Err(WireError::Malformed("a truth value that is neither")),
            },
            "n" => Value::I16(i16::from_le_bytes(self.number()?)),
            "q" => Value::U16(u16::from_le_bytes(self.number()?)),
            "i" => Value::I32(i32::from_le_bytes(self.number()?)),
            "u" | "h" => Value::U32(self.u32()?),
            "x" => Value::I64(i64::from_le_bytes(self.number()?)),
            "t" => Value::U64(u64::from_le_bytes(self.number()?)),
            "d" => Value::F64(f64::from_le_bytes(self.number()?)),
            "s" | "o" => {
                let length = self.u32()? as usize;
                let text = self.text(length)?;
                if first == "s" { Value::Text(text) } else { Value::Path(text) }
            }
            "g" => {
                let length = self.take(1)?[0];
                Value::Signature(self.text(length.into())?)
            }
            "v" => {
                let length = self.take(1)?[0];
                let signature = self.text(length.into())?;
                match split(&signature)? {
                    (one, "") => Value::Variant(Box::new(self.value(one)?)),
                    _ => return Err(WireError::Malformed("a variant of several values")),
                }
            }
            "a" => self.array(inner)?,
            "(" | "{" => {
                self.align(8)?;
                let mut rest = &inner[..inner.len().saturating_sub(1)];
                let mut fields = Vec::new();
                while !rest.is_empty() {
                    let (one, others) = split(rest)?;
                    fields.push(self.value(one)?);
                    rest = others;
                }
                Value::Struct(fields)
            }
            _ => return Err(WireError::Malformed("an unknown type")),
        })
    }

    fn array(&mut self, of: &str) -> Result<Value> {
        let length = self.u32()? as usize;
        self.align(alignment(of))?;
        if of == "y" {
            return Ok(Value::Bytes(self.take(length)?.to_vec()));
        }
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(WireError::Malformed("it ends within an array"))?;
        let mut items = Vec::new();
        while self.at < end {
            let before = self.at;
            items.push(self.value(of)?);
            // Items without a byte (an empty structure) would never come to an end.
            if self.at == before {
                return Err(WireError::Malformed("an array of nothing"));
            }
        }
        if self.at != end {
            return Err(WireError::Malformed("an array longer than it says"));
        }
        Ok(Value::Array { of: of.to_owned(), items })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Message {
        let property =
            |name: &str, value: Value| Value::Struct(vec![Value::text(name), Value::Variant(Box::new(value))]);
        let mut message = Message::new(Kind::Call, 7);
        message.path = Some("/org/freedesktop/systemd1".into());
        message.interface = Some("org.freedesktop.systemd1.Manager".into());
        message.member = Some("StartTransientUnit".into());
        message.destination = Some("org.freedesktop.systemd1".into());
        message.body = vec![
            Value::text("k-a.scope"),
            Value::text("replace"),
            Value::Array {
                of: "(sv)".into(),
                items: vec![
                    property("PIDs", Value::Array { of: "u".into(), items: vec![Value::U32(5)] }),
                    property("Delegate", Value::Bool(true)),
                    property("MemoryMax", Value::U64(u64::MAX)),
                    property("AllowedCPUs", Value::Bytes(vec![3])),
                    property("DeviceAllow", Value::Array { of: "(ss)".into(), items: Vec::new() }),
                    property("KillSignal", Value::I32(-1)),
                    property("After", Value::texts(["a".into(), "bc".into()])),
                    property("x", Value::F64(1.5)),
                ],
            },
            Value::Array { of: "(sa(sv))".into(), items: Vec::new() },
        ];
        message
    }

    #[test]
    fn what_is_written_is_read_back() {
        let message = sample();
        let bytes = message.to_bytes().unwrap();
        assert_eq!(Message::length(bytes.first_chunk().unwrap()).unwrap(), bytes.len());
        assert_eq!(Message::from_bytes(&bytes).unwrap(), message);
    }

    /// As dbus-send writes it (traced): the alignment of every part is the specification's.
    #[test]
    fn the_bytes_are_the_specifications() {
        let mut message = Message::new(Kind::Return, 1);
        message.reply_serial = Some(2);
        message.body = vec![Value::Byte(9), Value::text("ab"), Value::U64(1)];
        #[rustfmt::skip]
        let expected = [
            b'l', 2, 0, 1, 24, 0, 0, 0, 1, 0, 0, 0, 16, 0, 0, 0,
            5, 1, b'u', 0, 2, 0, 0, 0,
            8, 1, b'g', 0, 3, b'y', b's', b't', 0, 0, 0, 0, 0, 0, 0, 0,
            9, 0, 0, 0, 2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
        ];
        let bytes = message.to_bytes().unwrap();
        // The array of fields has 17 bytes; the end of the header is padded.
        let mut expected = expected.to_vec();
        expected[12] = 17;
        assert_eq!(bytes, expected);
    }

    #[test]
    fn cut_changed_or_random_bytes_are_refused_and_never_a_panic() {
        let bytes = sample().to_bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(Message::from_bytes(&bytes[..end]).is_err(), "{end}");
        }
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..200_000 {
            let mut damaged = bytes.clone();
            for _ in 0..=random() % 4 {
                let at = (random() % damaged.len() as u64) as usize;
                damaged[at] = random() as u8;
            }
            let _ = Message::from_bytes(&damaged);
        }
    }

    #[test]
    fn limits_hold() {
        let mut long = [b'l', 1, 0, 1, 0, 0, 0, 0x7f, 1, 0, 0, 0, 0, 0, 0, 0];
        assert!(matches!(Message::length(&long), Err(WireError::TooLong(_))));
        long[0] = b'B';
        assert!(matches!(Message::length(&long), Err(WireError::Malformed(_))));
        let deep = |levels: usize| {
            let mut value = Value::Byte(1);
            for _ in 0..levels {
                value = Value::Variant(Box::new(value));
            }
            let mut message = Message::new(Kind::Signal, 1);
            message.body = vec![value];
            Message::from_bytes(&message.to_bytes().unwrap())
        };
        assert!(deep(8).is_ok());
        assert!(deep(40).is_err());
        assert!(split("a").is_err() && split("(s").is_err() && split("z").is_err());
        assert_eq!(split("a(sv)as").unwrap(), ("a(sv)", "as"));
    }
}

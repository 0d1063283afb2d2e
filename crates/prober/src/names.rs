//! Names as the pod sees them: its `/etc/hosts`, then the name servers of its `resolv.conf`, asked from inside its
//! network namespace. A static binary has no NSS, and one thread cannot wait for it.

use crate::Place;
use crate::dial::{inside, reason};
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// resolv.conf(5): three servers are looked at.
const SERVERS_MAX: usize = 3;
const TRIES: usize = 2;
const SERVER_WAIT: Duration = Duration::from_secs(5);
/// Without EDNS an answer fits into 512 bytes; servers that send more are read too.
const ANSWER_BYTES_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;
const DNS_PORT: u16 = 53;

/// `Err`: `lookup web on 10.0.0.10:53: no such host`
pub(crate) async fn lookup(place: &Place<'_>, name: &str) -> Result<Vec<IpAddr>, String> {
    let listed = in_hosts(place.hosts, name);
    if !listed.is_empty() {
        return Ok(listed);
    }
    let config = ResolvConf::parse(place.resolv_conf);
    let mut failure = format!("lookup {name}: no such host");
    for candidate in config.candidates(name) {
        for record in [Record::A, Record::Aaaa] {
            match ask_servers(place, &config, &candidate, record).await {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) => {
                    if let Some(server) = config.servers.first() {
                        failure = format!("lookup {name} on {server}: no such host");
                    }
                }
                Err(Asked { server, reason }) => {
                    failure = format!("lookup {name} on {server}: {reason}");
                }
            }
        }
    }
    Err(failure)
}

fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let name = name.trim_end_matches('.');
    let mut found = Vec::new();
    for line in hosts.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(ip) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&ip) {
            found.push(ip);
        }
    }
    // IPv4 first, as Go dials.
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

#[derive(Debug, Default, PartialEq, Eq)]
struct ResolvConf {
    servers: Vec<SocketAddr>,
    searches: Vec<String>,
    ndots: usize,
}

impl ResolvConf {
    fn parse(text: &str) -> ResolvConf {
        let mut config = ResolvConf { ndots: 1, ..ResolvConf::default() };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if config.servers.len() < SERVERS_MAX => {
                    let ip = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    config.servers.extend(ip.map(|ip| SocketAddr::new(ip, DNS_PORT)));
                }
                Some("search") => config.searches = words.map(|word| word.trim_end_matches('.').to_owned()).collect(),
                Some("options") => {
                    for word in words {
                        if let Some(ndots) = word.strip_prefix("ndots:").and_then(|number| number.parse().ok()) {
                            config.ndots = ndots;
                        }
                    }
                }
                _ => {}
            }
        }
        config
    }

    /// Names to ask for, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        let bare = name.trim_end_matches('.').to_owned();
        if name.ends_with('.') {
            return vec![bare];
        }
        let searched =
            self.searches.iter().filter(|search| !search.is_empty()).map(|search| format!("{name}.{search}"));
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        if dots >= self.ndots { [bare].into_iter().chain(searched).collect() } else { searched.chain([bare]).collect() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    A = 1,
    Aaaa = 28,
}

struct Asked {
    server: SocketAddr,
    reason: String,
}

/// Empty: the name has no such record.
async fn ask_servers(place: &Place<'_>, config: &ResolvConf, name: &str, record: Record) -> Result<Vec<IpAddr>, Asked> {
    // From the hasher's random keys: an answer must be guessed along with the kernel's random port.
    let id = std::hash::RandomState::new().build_hasher().finish() as u16;
    let Some(question) = question(id, name, record) else { return Ok(Vec::new()) };
    let mut failure = None;
    for server in config.servers.iter().cycle().take(config.servers.len() * TRIES) {
        match ask(place, *server, id, &question, record).await {
            Ok(Answer::Found(found)) => return Ok(found),
            Ok(Answer::NoSuchName) => return Ok(Vec::new()),
            Ok(Answer::Misbehaving) => {
                failure = Some(Asked { server: *server, reason: "server misbehaving".to_owned() });
            }
            Err(reason) => failure = Some(Asked { server: *server, reason }),
        }
    }
    failure.map_or(Ok(Vec::new()), Err)
}

async fn ask(
    place: &Place<'_>,
    server: SocketAddr,
    id: u16,
    question: &[u8],
    record: Record,
) -> Result<Answer, String> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let text = |error: std::io::Error| reason(&error);
    let socket = inside(place, || UdpSocket::bind(any))?;
    socket.set_nonblocking(true).map_err(text)?;
    // A datagram socket connects at once, and then hears this server only.
    socket.connect(server).map_err(text)?;
    socket.send(question).map_err(text)?;
    // A refused port is an error without data: tokio's own socket would sleep through it.
    let interest = Interest::READABLE | Interest::ERROR;
    let socket = AsyncFd::with_interest(socket, interest).map_err(text)?;
    let mut bytes = vec![0; ANSWER_BYTES_MAX];
    let give_up = tokio::time::Instant::now() + SERVER_WAIT;
    loop {
        let receiving = socket.async_io(interest, |socket| socket.recv(&mut bytes));
        let length = match tokio::time::timeout_at(give_up, receiving).await {
            Err(_) => return Err("i/o timeout".to_owned()),
            Ok(received) => received.map_err(text)?,
        };
        if let Some(answer) = parse_answer(&bytes[..length], id, question, record) {
            return Ok(answer);
        }
    }
}

/// None: no server knows such a name.
fn question(id: u16, name: &str, record: Record) -> Option<Vec<u8>> {
    const RECURSION_DESIRED: u16 = 0x0100;
    const CLASS_IN: u16 = 1;
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::new();
    for number in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        bytes.extend(number.to_be_bytes());
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=LABEL_BYTES_MAX as u8).contains(length))?;
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend((record as u16).to_be_bytes());
    bytes.extend(CLASS_IN.to_be_bytes());
    Some(bytes)
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Found(Vec<IpAddr>),
    NoSuchName,
    Misbehaving,
}

/// None: not an answer to this question.
fn parse_answer(bytes: &[u8], id: u16, question: &[u8], record: Record) -> Option<Answer> {
    const HEADER_BYTES: usize = 12;
    const IS_ANSWER: u16 = 0x8000;
    const CODE: u16 = 0x000f;
    let number = |at: usize| bytes.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let flags = number(2)?;
    let asked = &question[HEADER_BYTES..];
    let echoed = bytes.get(HEADER_BYTES..HEADER_BYTES + asked.len())?;
    if number(0)? != id || flags & IS_ANSWER == 0 || number(4)? != 1 || !echoed.eq_ignore_ascii_case(asked) {
        return None;
    }
    match flags & CODE {
        0 => {}
        3 => return Some(Answer::NoSuchName),
        _ => return Some(Answer::Misbehaving),
    }
    let (mut at, mut found) = (HEADER_BYTES + asked.len(), Vec::new());
    for _ in 0..number(6)? {
        // Cut off: what was read before counts.
        let Some(fixed) = skip_name(bytes, at) else { break };
        let (Some(kind), Some(length)) = (number(fixed), number(fixed + 8)) else { break };
        let Some(data) = bytes.get(fixed + 10..fixed + 10 + usize::from(length)) else { break };
        match (kind == record as u16, record) {
            (true, Record::A) => {
                found.extend(<[u8; 4]>::try_from(data).ok().map(|octets| IpAddr::from(Ipv4Addr::from(octets))));
            }
            (true, Record::Aaaa) => {
                found.extend(<[u8; 16]>::try_from(data).ok().map(|octets| IpAddr::from(Ipv6Addr::from(octets))));
            }
            (false, _) => {}
        }
        at = fixed + 10 + usize::from(length);
    }
    Some(Answer::Found(found))
}

/// The offset behind a name, which may end in a pointer to elsewhere.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_by_any_of_their_names() {
        let hosts =
            "# x web\n::1\tlocalhost ip6-localhost\n127.0.0.1\tlocalhost\n10.1.2.3\tfoo.local\tbar # web\nbad web\n";
        let find = |name: &str| in_hosts(hosts, name).iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(find("LOCALHOST"), ["127.0.0.1", "::1"]);
        assert_eq!(find("bar."), ["10.1.2.3"]);
        assert_eq!(find("web"), Vec::<String>::new());
    }

    #[test]
    fn search_domains_come_before_or_after_the_name_by_ndots() {
        let config = ResolvConf::parse("nameserver 10.0.0.10\nsearch a.local b.local.\noptions ndots:2 rotate\n");
        assert_eq!(config.servers, ["10.0.0.10:53".parse().unwrap()]);
        assert_eq!(config.candidates("web"), ["web.a.local", "web.b.local", "web"]);
        assert_eq!(config.candidates("x.y.z"), ["x.y.z", "x.y.z.a.local", "x.y.z.b.local"]);
        assert_eq!(config.candidates("web."), ["web"]);
    }

    fn answer(flags: u16, records: &[(u16, &[u8])]) -> (Vec<u8>, Vec<u8>) {
        let asked = question(7, "web.local", Record::A).unwrap();
        let mut bytes = asked.clone();
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        for (kind, data) in records {
            bytes.extend([0xc0, 12]);
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1, 0, 0, 0, 60]);
            bytes.extend((data.len() as u16).to_be_bytes());
            bytes.extend(*data);
        }
        (asked, bytes)
    }

    #[test]
    fn an_answers_addresses_are_read_whatever_stands_between_them() {
        let (asked, bytes) = answer(0x8180, &[(5, b"\x01x\x00"), (1, &[10, 0, 0, 1]), (1, &[10, 0, 0, 2])]);
        let found = parse_answer(&bytes, 7, &asked, Record::A);
        assert_eq!(found, Some(Answer::Found(vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()])));
        assert_eq!(parse_answer(&bytes, 8, &asked, Record::A), None, "another question's");
        for cut in 0..bytes.len() {
            parse_answer(&bytes[..cut], 7, &asked, Record::A);
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let (asked, bytes) = answer(0x8183, &[]);
        assert_eq!(parse_answer(&bytes, 7, &asked, Record::A), Some(Answer::NoSuchName));
        let (asked, bytes) = answer(0x8182, &[]);
        assert_eq!(parse_answer(&bytes, 7, &asked, Record::A), Some(Answer::Misbehaving));
    }

    #[test]
    fn names_that_no_server_can_know_are_not_asked_for() {
        for name in ["", "a..b", &"x".repeat(64), &"x.".repeat(130)] {
            assert_eq!(question(1, name, Record::A), None, "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_answer_ends_the_shim(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let asked = question(7, "web.local", Record::A).unwrap();
            let mut answer = asked.clone();
            answer.extend(&bytes);
            answer[2] = 0x81;
            answer[6..8].copy_from_slice(&[0, 9]);
            let _ = (parse_answer(&answer, 7, &asked, Record::A), parse_answer(&bytes, 7, &asked, Record::A));
        }
    }
}

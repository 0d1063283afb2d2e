//! The packet filter (nf_tables over nfnetlink): one table of ours that hides pods behind the host's address, and
//! openings in other people's chains that drop what is forwarded.

use super::message::{Attributes, Nest, Request};
use super::{NLM_F_CREATE, Socket};
use crate::error::Result;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use std::net::Ipv4Addr;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const DELRULE: u16 = 8;
const NLM_F_APPEND: u16 = 0x800;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

const FAMILY_INET: u8 = 1;
const FAMILY_IP: u8 = 2;
const HOOK_FORWARD: u32 = 2;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_SRCNAT: i32 = 100;
const REGISTER: u32 = 1;
const REGISTER_VERDICT: u32 = 0;
const VERDICT_DROP: u32 = 0;
const VERDICT_ACCEPT: u32 = 1;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const CT_STATE: u32 = 0;
const CT_ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const IP_SOURCE: u32 = 12;
const IP_DESTINATION: u32 = 16;

/// Someone else's base chain on the forward hook whose policy is to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppingChain {
    family: u8,
    pub table: String,
    pub chain: String,
}

impl DroppingChain {
    fn is_of_iptables(&self) -> bool {
        self.family == FAMILY_IP && self.table == "filter" && self.chain == "FORWARD"
    }
}

#[derive(Debug)]
pub struct NftSocket(Socket);

impl NftSocket {
    /// Of this thread's network namespace.
    pub fn open() -> Result<NftSocket> {
        Socket::open(SockProtocol::NetlinkNetFilter).map(NftSocket)
    }

    pub fn has_table(&mut self, table: &str) -> Result<bool> {
        let request = Request::new(kind(GETTABLE), 0, format!("NFT_MSG_GETTABLE(ip {table})"), &header(FAMILY_IP, 0))
            .text(TABLE_NAME, table);
        match self.0.get(request) {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Errno::ENOENT => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `table ip TABLE { chain postrouting { ip saddr SUBNET ip daddr != SUBNET ip daddr != 224.0.0.0/4 masquerade } }`
    /// in one transaction; what the table held before is gone.
    pub fn put_masquerade(&mut self, table: &str, subnet: Ipv4Addr, mask: Ipv4Addr) -> Result<()> {
        const CHAIN: &str = "postrouting";
        let multicast = (Ipv4Addr::new(224, 0, 0, 0), Ipv4Addr::new(240, 0, 0, 0));
        let hook = Nest::default().be32(HOOK_NUMBER, HOOK_POSTROUTING).be32(HOOK_PRIORITY, PRIORITY_SRCNAT as u32);
        let rule = expressions(
            [
                address(IP_SOURCE, subnet, mask, Compare::Equal),
                address(IP_DESTINATION, subnet, mask, Compare::NotEqual),
                address(IP_DESTINATION, multicast.0, multicast.1, Compare::NotEqual),
                vec![("masq", Nest::default())],
            ]
            .concat_nests(),
        );
        self.batch(vec![
            new_table(table),
            delete_table(table),
            new_table(table),
            Request::new(
                kind(NEWCHAIN),
                NLM_F_CREATE,
                format!("NFT_MSG_NEWCHAIN(ip {table} {CHAIN}, nat)"),
                &header(FAMILY_IP, 0),
            )
            .text(CHAIN_TABLE, table)
            .text(CHAIN_NAME, CHAIN)
            .nest(CHAIN_HOOK, hook)
            .text(CHAIN_TYPE, "nat"),
            Request::new(
                kind(NEWRULE),
                NLM_F_CREATE | NLM_F_APPEND,
                format!("NFT_MSG_NEWRULE(ip {table} {CHAIN}, masquerade)"),
                &header(FAMILY_IP, 0),
            )
            .text(RULE_TABLE, table)
            .text(RULE_CHAIN, CHAIN)
            .nest(RULE_EXPRESSIONS, rule),
        ])
    }

    /// False when there is none.
    pub fn delete_table(&mut self, table: &str) -> Result<bool> {
        match self.batch(vec![delete_table(table)]) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Errno::ENOENT => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Chains in which a forwarded packet is dropped unless a rule of that chain accepts it: what other tables accept
    /// does not count.
    pub fn dropping_chains(&mut self) -> Result<Vec<DroppingChain>> {
        let mut found = Vec::new();
        for family in [FAMILY_IP, FAMILY_INET] {
            let dump = || Request::new(kind(GETCHAIN), 0, "NFT_MSG_GETCHAIN(dump)", &header(family, 0));
            for entry in self.0.dump(dump)? {
                found.extend(parse_dropping_chain(&entry));
            }
        }
        Ok(found)
    }

    /// Lets through what comes from `link`, and answers to it. `mark` is the rules' comment.
    pub fn open_chain(&mut self, chain: &DroppingChain, link: &str, mark: &str) -> Result<()> {
        let counter = || ("counter", Nest::default());
        // iptables refuses to read a chain of its own that holds an expression which it never writes.
        let is_answer = if chain.is_of_iptables() { xt_conntrack_answer() } else { ct_answer() };
        let to = [link_is(META_OIFNAME, link), is_answer, vec![counter(), accept()]].concat_nests();
        let from = [link_is(META_IIFNAME, link), vec![counter(), accept()]].concat_nests();
        let rule = |what: &str, list: Vec<(&'static str, Nest)>| {
            let shown = format!("NFT_MSG_NEWRULE({} {}, {what} {link} accept)", chain.table, chain.chain);
            // Without NLM_F_APPEND it becomes the first.
            Request::new(kind(NEWRULE), NLM_F_CREATE, shown, &header(chain.family, 0))
                .text(RULE_TABLE, &chain.table)
                .text(RULE_CHAIN, &chain.chain)
                .nest(RULE_EXPRESSIONS, expressions(list))
                .attr(RULE_USERDATA, &comment(mark))
        };
        self.batch(vec![rule("oifname", to), rule("iifname", from)])
    }

    pub fn is_opened(&mut self, chain: &DroppingChain, mark: &str) -> Result<bool> {
        Ok(!self.marked_rules(chain, mark)?.is_empty())
    }

    /// Takes our rules out of a chain again.
    pub fn close_chain(&mut self, chain: &DroppingChain, mark: &str) -> Result<()> {
        let deletions: Vec<Request> = self
            .marked_rules(chain, mark)?
            .into_iter()
            .map(|handle| {
                let shown = format!("NFT_MSG_DELRULE({} {})", chain.table, chain.chain);
                Request::new(kind(DELRULE), 0, shown, &header(chain.family, 0))
                    .text(RULE_TABLE, &chain.table)
                    .text(RULE_CHAIN, &chain.chain)
                    .attr(RULE_HANDLE, &handle)
            })
            .collect();
        if deletions.is_empty() { Ok(()) } else { self.batch(deletions) }
    }

    fn marked_rules(&mut self, chain: &DroppingChain, mark: &str) -> Result<Vec<Vec<u8>>> {
        let dump = || {
            let shown = format!("NFT_MSG_GETRULE({} {}, dump)", chain.table, chain.chain);
            Request::new(kind(GETRULE), 0, shown, &header(chain.family, 0))
                .text(RULE_TABLE, &chain.table)
                .text(RULE_CHAIN, &chain.chain)
        };
        let entries = match self.0.dump(dump) {
            Err(error) if error.errno() == Errno::ENOENT => return Ok(Vec::new()),
            other => other?,
        };
        let ours = |entry: &Vec<u8>| {
            let attributes = Attributes::new(entry.get(HEADER_BYTES..)?);
            // The filter of older kernels is coarser.
            let here = attributes.text(RULE_TABLE)? == chain.table && attributes.text(RULE_CHAIN)? == chain.chain;
            let marked = attributes.get(RULE_USERDATA)? == comment(mark);
            (here && marked).then(|| attributes.get(RULE_HANDLE).map(<[u8]>::to_vec)).flatten()
        };
        Ok(entries.iter().filter_map(ours).collect())
    }

    fn batch(&mut self, requests: Vec<Request>) -> Result<()> {
        let mark = |kind: u16, name: &str| Request::new(kind, 0, name, &header(0, SUBSYSTEM));
        self.0.batch(mark(BATCH_BEGIN, "NFNL_MSG_BATCH_BEGIN"), requests, mark(BATCH_END, "NFNL_MSG_BATCH_END"))
    }
}

const HEADER_BYTES: usize = 4;

/// struct nfgenmsg
fn header(family: u8, resource: u16) -> [u8; HEADER_BYTES] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

fn new_table(table: &str) -> Request {
    let shown = format!("NFT_MSG_NEWTABLE(ip {table})");
    Request::new(kind(NEWTABLE), NLM_F_CREATE, shown, &header(FAMILY_IP, 0)).text(TABLE_NAME, table)
}

fn delete_table(table: &str) -> Request {
    let shown = format!("NFT_MSG_DELTABLE(ip {table})");
    Request::new(kind(DELTABLE), 0, shown, &header(FAMILY_IP, 0)).text(TABLE_NAME, table)
}

type Expression = (&'static str, Nest);

/// Concatenation of expression lists (`Nest` is not `Clone`, so `concat` does not serve).
trait ConcatNests {
    fn concat_nests(self) -> Vec<Expression>;
}

impl<I: IntoIterator<Item = Vec<Expression>>> ConcatNests for I {
    fn concat_nests(self) -> Vec<Expression> {
        self.into_iter().flatten().collect()
    }
}

fn expressions(list: Vec<Expression>) -> Nest {
    list.into_iter().fold(Nest::default(), |all, (name, data)| {
        all.nest(LIST_ELEMENT, Nest::default().text(EXPRESSION_NAME, name).nest(EXPRESSION_DATA, data))
    })
}

#[derive(Debug, Clone, Copy)]
enum Compare {
    Equal = 0,
    NotEqual = 1,
}

/// Loads an address of the IP header, masks it, compares.
fn address(offset: u32, network: Ipv4Addr, mask: Ipv4Addr, compare: Compare) -> Vec<Expression> {
    const NETWORK_HEADER: u32 = 1;
    const ADDRESS_BYTES: u32 = 4;
    let payload = Nest::default().be32(1, REGISTER).be32(2, NETWORK_HEADER).be32(3, offset).be32(4, ADDRESS_BYTES);
    vec![
        ("payload", payload),
        ("bitwise", bitwise(ADDRESS_BYTES, &mask.octets())),
        ("cmp", cmp(compare, &network.octets())),
    ]
}

fn link_is(key: u32, link: &str) -> Vec<Expression> {
    // With its NUL the name is compared whole; without, it would be a prefix.
    let name = [link.as_bytes(), &[0]].concat();
    vec![("meta", Nest::default().be32(1, REGISTER).be32(2, key)), ("cmp", cmp(Compare::Equal, &name))]
}

/// `ct state established,related`
fn ct_answer() -> Vec<Expression> {
    vec![
        ("ct", Nest::default().be32(1, REGISTER).be32(2, CT_STATE)),
        // Registers hold the state in the host's order.
        ("bitwise", bitwise(4, &CT_ESTABLISHED_OR_RELATED.to_ne_bytes())),
        ("cmp", cmp(Compare::NotEqual, &[0; 4])),
    ]
}

/// The same as iptables writes it: `-m conntrack --ctstate RELATED,ESTABLISHED`.
fn xt_conntrack_answer() -> Vec<Expression> {
    // struct xt_conntrack_mtinfo3, padded to 8.
    const INFO_BYTES: usize = 168;
    const MATCH_FLAGS_AT: usize = 146;
    const STATE_MASK_AT: usize = 150;
    const MATCH_STATE: u16 = 1;
    let mut info = [0; INFO_BYTES];
    info[MATCH_FLAGS_AT..MATCH_FLAGS_AT + 2].copy_from_slice(&MATCH_STATE.to_ne_bytes());
    let states = CT_ESTABLISHED_OR_RELATED as u16;
    info[STATE_MASK_AT..STATE_MASK_AT + 2].copy_from_slice(&states.to_ne_bytes());
    vec![("match", Nest::default().text(1, "conntrack").be32(2, 3).attr(3, &info))]
}

fn bitwise(bytes: u32, mask: &[u8]) -> Nest {
    let zeros = vec![0; mask.len()];
    Nest::default()
        .be32(1, REGISTER)
        .be32(2, REGISTER)
        .be32(3, bytes)
        .nest(4, Nest::default().attr(DATA_VALUE, mask))
        .nest(5, Nest::default().attr(DATA_VALUE, &zeros))
}

fn cmp(compare: Compare, value: &[u8]) -> Nest {
    Nest::default().be32(1, REGISTER).be32(2, compare as u32).nest(3, Nest::default().attr(DATA_VALUE, value))
}

fn accept() -> Expression {
    let verdict = Nest::default().nest(DATA_VERDICT, Nest::default().be32(VERDICT_CODE, VERDICT_ACCEPT));
    ("immediate", Nest::default().be32(1, REGISTER_VERDICT).nest(2, verdict))
}

/// A rule's comment as the nft program writes and shows it: type 0, length, text with NUL.
fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).expect("comments of ours are short");
    [&[0, length], text.as_bytes(), &[0]].concat()
}

fn parse_dropping_chain(entry: &[u8]) -> Option<DroppingChain> {
    let attributes = Attributes::new(entry.get(HEADER_BYTES..)?);
    let hook = attributes.nest(CHAIN_HOOK)?.be32(HOOK_NUMBER)?;
    let dropping = hook == HOOK_FORWARD && attributes.be32(CHAIN_POLICY)? == VERDICT_DROP;
    let family = *entry.first()?;
    dropping.then_some(DroppingChain {
        family,
        table: attributes.text(CHAIN_TABLE)?,
        chain: attributes.text(CHAIN_NAME)?,
    })
}

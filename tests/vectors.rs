//! `docs/selection.md` promises tables to whoever writes the selection in another language: the code must keep to them.

use std::fs;
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use penstock::maglev::{Client, Member, SelectionHash, masked, slot, table};

const SEED: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const HASH: SelectionHash = SelectionHash::new(SEED);

/// The cells of the table under the heading that ends in `heading`, row by row; the first table after it, or the `nth`.
fn rows(heading: &str, nth: usize) -> Vec<Vec<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/selection.md");
    let document = fs::read_to_string(path).unwrap();
    let start = document.find(&format!("\n### {heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let section = &document[start + 1..];
    let section = &section[..section[3..].find("\n#").map_or(section.len(), |end| end + 3)];
    let lines: Vec<&str> = section.lines().collect();
    let mut tables = lines.split(|line| !line.starts_with('|')).filter(|table| !table.is_empty());
    let table = tables.nth(nth).unwrap_or_else(|| panic!("no table {nth} under {heading:?}"));
    let cells = |line: &&str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let rows: Vec<_> = table[2..].iter().map(cells).collect();
    assert!(!rows.is_empty(), "the table under {heading:?} is empty");
    rows
}

/// SipHash-1-3 of another author.
fn siphash(message: &[u8]) -> u64 {
    let mut hasher = siphasher::sip::SipHasher13::new_with_key(&SEED);
    hasher.write(message);
    hasher.finish()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn hash(text: &str) -> u64 {
    assert_eq!(text.len(), 16, "{text} is no hash");
    u64::from_str_radix(text, 16).unwrap()
}

fn number<N: std::str::FromStr>(text: &str) -> N {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number or address"))
}

/// The members of the table of 13.
fn small() -> Vec<Member> {
    let rows = rows("A table of 13 slots", 0);
    rows.iter()
        .map(|row| Member { address: number::<Ipv4Addr>(&row[0]).into(), port: None, weight: number(&row[1]) })
        .collect()
}

#[test]
fn the_messages_have_the_lengths_and_hashes_that_the_page_says() {
    for row in rows("Messages", 0) {
        let message = hex(&row[1]);
        let length = match row[0].as_str() {
            "client, IPv4" => 6,
            "client, IPv6" => 18,
            "source, IPv4" => 4,
            "source, IPv6" => 16,
            "redraw" => 8,
            "member" => 19,
            other => panic!("{other}"),
        };
        assert_eq!((message.len(), siphash(&message)), (length, hash(&row[2])), "{row:?}");
    }
}

#[test]
fn a_client_has_the_hash_and_slots_that_the_page_says() {
    for row in rows("Slots", 0) {
        let client: SocketAddr = number(&row[0]);
        let of = HASH.end(client.ip(), client.port());
        if let IpAddr::V4(address) = client.ip() {
            assert_eq!(HASH.client(Client::v4(address, client.port())), of);
        }
        assert_eq!(of, hash(&row[1]), "{row:?}");
        assert_eq!((slot(of, 13), slot(of, 65537)), (number(&row[2]), number(&row[3])), "{row:?}");
    }
}

#[test]
fn the_small_table_is_the_pages() {
    let members = small();
    let whole = table(&members, 13, &HASH);
    let without = |mask: &[u16]| masked(&whole, |owner| mask.contains(&owner), &HASH);
    let (one, two) = (without(&[1]), without(&[1, 2]));
    let name = |owner: u16| members[usize::from(owner)].address.to_string();
    let made: Vec<Vec<String>> =
        (0..13).map(|slot| vec![slot.to_string(), name(whole[slot]), name(one[slot]), name(two[slot])]).collect();
    assert_eq!(made, rows("A table of 13 slots", 1));
    // The quotas, too, which the first table states.
    for (k, row) in rows("A table of 13 slots", 0).iter().enumerate() {
        let quota = whole.iter().filter(|&&owner| usize::from(owner) == k).count();
        assert_eq!(quota, number::<usize>(&row[4]), "{row:?}");
        assert_eq!(row[5].split(' ').count(), quota, "{row:?}");
    }
}

/// From the page's own numbers, by the page's own words.
#[test]
fn offsets_and_skips_follow_from_the_messages() {
    for row in rows("A table of 13 slots", 0) {
        let of = |purpose: u8| {
            let mut message = [&[0; 10][..], &[0xff; 2], &number::<Ipv4Addr>(&row[0]).octets(), &[0; 2]].concat();
            message.push(purpose);
            siphash(&message)
        };
        assert_eq!((of(1) % 13, of(2) % 12 + 1), (number(&row[2]), number(&row[3])), "{row:?}");
    }
}

#[test]
fn redraws_look_where_the_page_says() {
    let members = small();
    let whole = table(&members, 13, &HASH);
    let now = masked(&whole, |owner| owner == 1, &HASH);
    for row in rows("A table of 13 slots", 2) {
        let (from, attempt): (u32, u32) = (number(&row[0]), number(&row[1]));
        let of = siphash(&[from.to_be_bytes(), attempt.to_be_bytes()].concat());
        let owner = whole[slot(of, 13)];
        let at = (hash(&row[2]), number(&row[3]), number::<Ipv4Addr>(&row[4]).into());
        assert_eq!((of, slot(of, 13), members[usize::from(owner)].address), at, "{row:?}");
        match row[5].as_str() {
            "taken" => assert_eq!(now[from as usize], owner, "{row:?}"),
            fate => assert_eq!((fate, owner), ("masked", 1), "{row:?}"),
        }
    }
}

#[test]
fn whole_tables_have_the_fingerprints_that_the_page_says() {
    let member = |k: u16| Member {
        address: Ipv4Addr::new(10, 1, 0, k as u8 + 1).into(),
        port: (k % 2 == 1).then_some(8080),
        weight: 1 + k % 7,
    };
    let members: Vec<_> = (0..100).map(member).collect();
    for row in rows("Whole tables", 0) {
        let whole = table(&members, number(&row[0]), &HASH);
        let mask: Vec<u16> = row[1].split(' ').filter(|&word| word != "none").map(number).collect();
        let owners = masked(&whole, |owner| mask.contains(&owner), &HASH);
        let bytes: Vec<u8> = owners.iter().flat_map(|owner| owner.to_be_bytes()).collect();
        assert_eq!(siphash(&bytes), hash(&row[2]), "{row:?}");
    }
}

use proptest::prelude::*;

use super::*;
use crate::codec::{decode, encode};

/// A zone `example.com` with these records, one a line: name, kind, what it says.
fn zone(text: &str) -> ZoneSpec {
    let mut zone = ZoneSpec::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (owner, rest) = line.split_once(' ').unwrap();
        let (word, data) = rest.split_once(' ').unwrap();
        let kind = RECORD_KINDS.iter().find(|(known, _)| *known == word).unwrap().1;
        let data = RecordData::read(kind, data, Some("example.com")).unwrap();
        zone.records.entry(owner.into()).or_default().data.insert(data);
    }
    zone
}

fn faults(text: &str) -> Vec<String> {
    let told = zone(text).faults("example.com");
    let kind = |fault: &ZoneFault| fault.kind.map_or(String::new(), |kind| format!(" {kind}"));
    told.iter()
        .map(|fault| format!("{}{}: {}", fault.owner.as_deref().unwrap_or("-"), kind(fault), fault.why))
        .collect()
}

#[test]
fn a_whole_zone_has_no_faults_and_comes_back_as_it_was_written() {
    let whole = zone(
        "@ MX 10 mail
         @ MX 20 MX.Example.NET.
         @ TXT v=spf1 mx -all
         @ CAA 0 issue \"letsencrypt.org\"
         @ CAA 128 issuewild ;
         mail A 192.0.2.7
         mail AAAA 2001:db8::7
         *.dev CNAME mail
         _sip._tcp SRV 0 5 5060 mail
         _none._tcp SRV 0 0 0 .
         nomail MX 0 .
         sub NS ns1.sub.example.com.
         sub NS ns.example.net.
         ns1.sub A 192.0.2.53
         ns A 192.0.2.1
         * TXT anything",
    );
    assert_eq!(whole.faults("example.com"), []);
    assert_eq!(decode::<ZoneSpec>(&encode(&whole)).unwrap(), whole);
    let told: Vec<String> = whole.records["@"].data.iter().map(ToString::to_string).collect();
    let expected = [
        "CAA 0 issue \"letsencrypt.org\"",
        "CAA 128 issuewild \";\"",
        "MX 10 mail.example.com.",
        "MX 20 MX.Example.NET.",
        "TXT v=spf1 mx -all",
    ];
    assert_eq!(told, expected, "names keep their case");
    assert_eq!((whole.delegation("a.b.sub"), whole.delegation("sub")), (Some("sub"), Some("sub")));
    assert_eq!(whole.delegation("mail"), None);
}

#[test]
fn what_contradicts_itself_is_said_at_its_name() {
    for (text, says) in [
        ("a CNAME b\na TXT x", "a CNAME: is another name, so there is one CNAME and nothing else"),
        ("a CNAME b\na CNAME c", "a CNAME: is another name, so there is one CNAME and nothing else"),
        ("@ CNAME www", "@ CNAME: the zone itself is no other name: it has records of its own"),
        ("@ NS ns1.example.net.", "@ NS: the zone itself is answered by the nodes, NODE.ns.example.com"),
        ("*.x NS ns1.example.net.", "*.x NS: not every name can be answered by others"),
        ("s NS x.net.\ns TXT no", "s TXT: s is answered by others (NS), and so is all below"),
        ("s NS x.net.\na.s MX 1 x.net.", "a.s MX: s is answered by others (NS), and so is all below"),
        (
            "s NS n.s.example.com.",
            "s NS: n.s.example.com is below what it answers for: say its address here, too (glue)",
        ),
        ("a MX 10 b\nb CNAME c", "a MX: b.example.com. is another name (CNAME); say which host is meant"),
        ("a MX 10 .", "a MX: no mail is taken: write \"0 .\", and nothing else"),
        ("a CNAME a", "a CNAME: leads through more than 8 other names, or in a circle"),
        ("n1.ns A 192.0.2.1", "n1.ns: names below ns are those of the nodes, NODE.ns.example.com"),
        (
            "a.example.com A 192.0.2.1",
            "a.example.com: names are said below the zone: leave example.com out, \"@\" is the zone itself",
        ),
        ("a. A 192.0.2.1", "a.: names are said below the zone, without a final dot"),
        ("a.*.b A 192.0.2.1", "a.*.b: \"*\" is no label: use 1 to 63 of a-z, 0-9, '-' and '_'"),
        ("A A 192.0.2.1", "A: names are in lower case here"),
        (
            "m\u{fc}ller A 192.0.2.1",
            "m\u{fc}ller: \"m\u{fc}ller\" is not of a-z, 0-9, '-' and '_': write the form that begins with xn--",
        ),
    ] {
        assert_eq!(faults(text).first().map(String::as_str), Some(says), "{text}");
    }
    let many: String = (0..=RECORDS_PER_SET_MAX).map(|n| format!("a A 192.0.2.{n}\n")).collect();
    assert_eq!(faults(&many), [format!("a A: 65 records exceed {RECORDS_PER_SET_MAX}")]);
}

#[test]
fn what_is_no_record_says_what_one_is() {
    let read = |kind, text: &str| RecordData::read(kind, text, Some("example.com")).unwrap_err();
    for (kind, text, says) in [
        (RecordKind::A, "2001:db8::1", "\"2001:db8::1\" is not an IPv4 address, for example \"192.0.2.7\""),
        (RecordKind::Mx, "mail", "\"mail\" is not a preference and a host, for example \"10 mail.example.net.\""),
        (
            RecordKind::Mx,
            "70000 mail",
            "\"70000 mail\" is not a preference and a host, for example \"10 mail.example.net.\"",
        ),
        (
            RecordKind::Cname,
            "www.example.net",
            "\"www.example.net\" has no final dot: write \"www.example.net.\" if that is the whole name",
        ),
        (RecordKind::Cname, "a..b.", "\"\" is no label: use 1 to 63 of a-z, 0-9, '-' and '_'"),
        (RecordKind::Cname, "a..", "\"a..\" has a label without letters"),
        (RecordKind::Cname, "a b", "\"a b\" is not a name, for example \"www.example.net.\""),
        (RecordKind::Txt, "a\nb", "a text has no characters that cannot be seen, also no line breaks"),
        (
            RecordKind::Caa,
            "1 issue x",
            "\"1 issue x\" is not a flag, a tag and a value, for example '0 issue \"letsencrypt.org\"'",
        ),
    ] {
        assert_eq!(read(kind, text), says);
    }
    assert_eq!(unfit_zone("shop.hirsel").as_deref(), Some("is the cluster's own zone, which is always answered"));
    assert!(unfit_zone("Example.com").is_some() && unfit_zone("").is_some() && unfit_zone("example.com").is_none());
}

proptest! {
    #[test]
    fn whatever_is_read_is_written_so_that_it_is_read_again(kind in 0..8usize, text in "[ -~é]{0,40}|[0-9]{1,3} ([a-z]{1,5} ){0,3}[a-z.]{0,9}") {
        if let Ok(data) = RecordData::read(RECORD_KINDS[kind].1, &text, Some("example.com")) {
            prop_assert_eq!(data.to_string().parse::<RecordData>(), Ok(data));
        }
    }

    #[test]
    fn no_text_brings_it_down(text in ".{0,60}", owner in ".{0,20}") {
        drop(text.parse::<RecordData>());
        let mut zone = ZoneSpec::default();
        zone.records.insert(owner, NameSpec::default());
        zone.faults(&text);
    }
}

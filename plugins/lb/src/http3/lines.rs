//! What a section of field lines must not hold, looked at before it is decoded (RFC 9114, sections 4.1.2, 4.2 and 4.3; RFC 9204).
//!
//! The library decodes lines into a map of fields, in which it cannot be seen any more that a pseudo field came twice, in the wrong place or
//! where none may be; and it counts beyond what its integers hold. Lines are walked here without being decoded: of a name that is spelled
//! out it is enough to know whether it is one of the six. There is no dynamic table, since we announce none. Pure.

/// What a section belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The head of a request.
    Head,
    /// What comes behind its body.
    Trailer,
}

/// Why a section is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is no message: the request ends.
    Malformed,
    /// It cannot be decoded: the connection ends.
    Undecodable,
}

/// A field that says what a first line says in HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pseudo {
    Authority = 1,
    Method = 2,
    Path = 4,
    Scheme = 8,
    Protocol = 16,
}

/// What kind of name a line has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Field,
    Pseudo(Pseudo),
    /// One of an answer, or one that nobody knows.
    Strange,
}

/// The names, as they are and by Huffman's code (RFC 7541, appendix B), which has one way to spell each.
const NAMES: [(&[u8], &[u8], Name); 6] = [
    (b":authority", &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f], Name::Pseudo(Pseudo::Authority)),
    (b":method", &[0xb9, 0x49, 0x53, 0x39, 0xe4], Name::Pseudo(Pseudo::Method)),
    (b":path", &[0xb9, 0x58, 0xd3, 0x3f], Name::Pseudo(Pseudo::Path)),
    (b":scheme", &[0xb8, 0x82, 0x4e, 0x5a, 0x4b], Name::Pseudo(Pseudo::Scheme)),
    (b":protocol", &[0xb9, 0x5d, 0x87, 0x49, 0xc8, 0x7a, 0x3f], Name::Pseudo(Pseudo::Protocol)),
    (b":status", &[0xb8, 0x84, 0x8d, 0x36, 0xa3], Name::Strange),
];

/// Lines of the static table (RFC 9204, appendix A).
const STATIC_LINES: u64 = 99;

/// Nothing in a section is longer: an integer above that is refused before it is added up.
const NUMBER_MAX: u64 = 1 << 24;

/// Looks at a whole section.
///
/// # Errors
/// If it must not be passed on.
pub fn check(section: &[u8], of: Section) -> Result<(), Refused> {
    let mut rest = Rest(section);
    // Required insert count, and a base that says nothing without one.
    if rest.number(8)? != 0 {
        return Err(Refused::Undecodable);
    }
    rest.number(7)?;
    let (mut seen, mut fields_begun) = (0, false);
    while let Some(&first) = rest.0.first() {
        let name = match first {
            0xc0.. => of_static(rest.number(6)?)?,
            0x50..=0x5f | 0x70..=0x7f => {
                let name = of_static(rest.number(4)?)?;
                rest.text(7)?;
                name
            }
            0x20..=0x3f => {
                let is_coded = first & 0x08 != 0;
                let name = spelled(rest.text(3)?, is_coded);
                rest.text(7)?;
                name
            }
            // Whatever refers to a dynamic table.
            _ => return Err(Refused::Undecodable),
        };
        match name {
            Name::Field => fields_begun = true,
            Name::Strange => return Err(Refused::Malformed),
            Name::Pseudo(pseudo) => {
                let bit = pseudo as u8;
                if of == Section::Trailer || fields_begun || seen & bit != 0 {
                    return Err(Refused::Malformed);
                }
                seen |= bit;
            }
        }
    }
    Ok(())
}

/// What is left of a section.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn byte(&mut self) -> Result<u8, Refused> {
        let (first, rest) = self.0.split_first().ok_or(Refused::Undecodable)?;
        self.0 = rest;
        Ok(*first)
    }

    /// An integer in the last `bits` of a byte and what follows (RFC 7541, section 5.1).
    fn number(&mut self, bits: u32) -> Result<u64, Refused> {
        let most = (1_u64 << bits) - 1;
        let mut number = u64::from(self.byte()?) & most;
        if number < most {
            return Ok(number);
        }
        // Four more bytes hold more than is allowed, and more zeros in front of nothing are not needed.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            number += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return if number <= NUMBER_MAX { Ok(number) } else { Err(Refused::Undecodable) };
            }
        }
        Err(Refused::Undecodable)
    }

    /// A text, whose length stands in the last `bits` of a byte and what follows.
    fn text(&mut self, bits: u32) -> Result<&'a [u8], Refused> {
        let length = usize::try_from(self.number(bits)?).map_err(|_| Refused::Undecodable)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Refused::Undecodable)?;
        self.0 = rest;
        Ok(text)
    }
}

fn of_static(index: u64) -> Result<Name, Refused> {
    Ok(match index {
        0 => Name::Pseudo(Pseudo::Authority),
        1 => Name::Pseudo(Pseudo::Path),
        15..=21 => Name::Pseudo(Pseudo::Method),
        22..=23 => Name::Pseudo(Pseudo::Scheme),
        24..=28 | 63..=71 => Name::Strange,
        _ if index < STATIC_LINES => Name::Field,
        _ => return Err(Refused::Undecodable),
    })
}

fn spelled(name: &[u8], is_coded: bool) -> Name {
    // A colon, which has seven bits.
    let is_pseudo = match name.first() {
        Some(first) if is_coded => first >> 1 == 0x5c,
        first => first == Some(&b':'),
    };
    if !is_pseudo {
        return Name::Field;
    }
    let known = NAMES.iter().find(|(plain, coded, _)| name == if is_coded { *coded } else { *plain });
    known.map_or(Name::Strange, |(_, _, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(lines: &[&[u8]]) -> Vec<u8> {
        [&[0, 0][..], &lines.concat()].concat()
    }

    fn head(lines: &[&[u8]]) -> Result<(), Refused> {
        check(&section(lines), Section::Head)
    }

    /// A line whose name and value are spelled out.
    fn line(name: &str, value: &str) -> Vec<u8> {
        assert!(name.len() < 127 + 7 && value.len() < 127);
        let mut line = match name.len() {
            0..7 => vec![0x20 | name.len() as u8],
            length => vec![0x27, length as u8 - 7],
        };
        line.extend(name.bytes());
        line.push(value.len() as u8);
        line.extend(value.bytes());
        line
    }

    /// By what bits Huffman's code has for what names are made of.
    fn coded(name: &str) -> Vec<u8> {
        let code = |letter: u8| match letter {
            b'a' => (0x3, 5),
            b'c' => (0x4, 5),
            b'e' => (0x5, 5),
            b'i' => (0x6, 5),
            b'o' => (0x7, 5),
            b's' => (0x8, 5),
            b't' => (0x9, 5),
            b'd' => (0x24, 6),
            b'h' => (0x27, 6),
            b'l' => (0x28, 6),
            b'm' => (0x29, 6),
            b'p' => (0x2b, 6),
            b'r' => (0x2c, 6),
            b'u' => (0x2d, 6),
            b':' => (0x5c, 7),
            b'y' => (0x7a, 7),
            other => panic!("{}", other as char),
        };
        let bits = name.bytes().flat_map(|letter| {
            let (code, length): (u32, u32) = code(letter);
            (0..length).rev().map(move |bit| code >> bit & 1 == 1).collect::<Vec<_>>()
        });
        let bits: Vec<bool> = bits.collect();
        bits.chunks(8)
            .map(|byte| (0..8).fold(0, |all, at| all << 1 | u8::from(*byte.get(at).unwrap_or(&true))))
            .collect()
    }

    const GET: &[u8] = &[0xd1];
    const HTTPS: &[u8] = &[0xd7];
    const ROOT: &[u8] = &[0xc1];
    const AUTHORITY: &[u8] = &[0x50, 1, b'a'];

    #[test]
    fn names_by_the_code_are_those_of_the_standard() {
        for (plain, by_code, _) in NAMES {
            assert_eq!(coded(std::str::from_utf8(plain).unwrap()), by_code, "{plain:?}");
        }
    }

    #[test]
    fn a_plain_request_passes_however_it_is_spelled() {
        assert_eq!(head(&[GET, HTTPS, AUTHORITY, ROOT, &line("x-a", "1"), &[0x5f, 0x50, 1, b'c']]), Ok(()));
        let spelled = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/"), ("x", "")];
        assert_eq!(head(&spelled.map(|(name, value)| line(name, value)).each_ref().map(Vec::as_slice)), Ok(()));
        assert_eq!(check(&section(&[&line("x-sum", "1")]), Section::Trailer), Ok(()));
        assert_eq!(check(&section(&[]), Section::Trailer), Ok(()));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let by_code = |name: &str| {
            let name = coded(name);
            let length: &[u8] = if name.len() < 7 { &[0x28 | name.len() as u8] } else { &[0x2f, name.len() as u8 - 7] };
            [length, &name, &[1, b'x']].concat()
        };
        let (path, field) = (line(":path", "/other"), line("x", "1"));
        for (lines, why) in [
            (vec![GET, ROOT, &path], "a path twice"),
            (vec![GET, ROOT, &by_code(":path")], "a path twice, once by the code"),
            (vec![GET, GET], "a method twice"),
            (vec![AUTHORITY, AUTHORITY], "a host twice"),
            (vec![&field, ROOT], "a path behind a field"),
            (vec![&field, &by_code(":authority")], "a host behind a field"),
            (vec![&[0xd9]], "a status"),
            (vec![&[0x5f, 0x09, 3, b'2', b'0', b'0']], "a status by its name"),
            (vec![&line(":status", "200")], "a status that is spelled out"),
            (vec![&by_code(":status")], "a status by the code"),
            (vec![&line(":foo", "1")], "what nobody knows"),
            (vec![&line(":", "1")], "nothing but a colon"),
            (vec![&by_code(":path:path")], "what nobody knows, by the code"),
        ] {
            assert_eq!(head(&lines), Err(Refused::Malformed), "{why}");
        }
        for line in [GET, &line(":path", "/"), &by_code(":path"), &[0xd9]] {
            assert_eq!(check(&section(&[line]), Section::Trailer), Err(Refused::Malformed), "{line:?} behind a body");
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        for (bytes, why) in [
            (&[][..], "nothing"),
            (&[0], "no base"),
            (&[1, 0], "a dynamic table"),
            (&[0, 0, 0x80], "a line of it"),
            (&[0, 0, 0x40, 0], "a name of it"),
            (&[0, 0, 0x10], "what comes behind its base"),
            (&[0, 0, 0x00, 0], "a name of that"),
            (&[0, 0, 0xff, 0x24], "a line beyond the table"),
            (&[0, 0, 0x21], "a name that is not there"),
            (&[0, 0, 0x21, b'x', 5, b'y'], "a value that ends early"),
            (&[0, 0, 0x27, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "a length beyond all bounds"),
            (&[0, 0, 0x27, 0x80, 0x80, 0x80, 0x80, 0x00], "a number with more zeros than it may have"),
        ] {
            assert_eq!(check(bytes, Section::Head), Err(Refused::Undecodable), "{why}");
        }
    }
}

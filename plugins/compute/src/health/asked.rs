//! What a check asks in HTTP/2 in clear: a page, or the health of a program by the question that gRPC has for it
//! (`grpc.health.v1.Health/Check`).

use http::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes in both directions.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// The longest answer that is read.
const BODY_BYTES_MAX: usize = 64 << 10;
/// In the answer of gRPC: the program serves.
const SERVING: u64 = 1;

/// What came back.
#[derive(Debug)]
pub(crate) struct Came {
    pub status: u16,
    body: Vec<u8>,
    /// Header fields, and those behind the body.
    fields: HeaderMap,
}

/// `GET path`.
pub(crate) async fn get(stream: impl Stream, authority: &str, path: &str) -> Result<Came, String> {
    let request = Request::get(format!("http://{authority}{path}")).header("accept", "*/*");
    ask(stream, request, Vec::new()).await
}

/// The health of `service`, or of the program as a whole if that is empty.
pub(crate) async fn grpc(stream: impl Stream, authority: &str, service: &str) -> Result<(), String> {
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let came = ask(stream, request, question(service)).await?;
    let said = |name: &str| came.fields.get(name).and_then(|value| value.to_str().ok());
    match said("grpc-status") {
        Some("0") => {}
        Some(code) => {
            return Err(format!("status {code} {}", said("grpc-message").unwrap_or_default()).trim_end().into());
        }
        None => return Err(format!("no answer in gRPC: status {}", came.status)),
    }
    match serving(&came.body) {
        Some(SERVING) => Ok(()),
        Some(_) | None => Err("it says that it does not serve".into()),
    }
}

async fn ask(stream: impl Stream, request: http::request::Builder, body: Vec<u8>) -> Result<Came, String> {
    let words = |error: h2::Error| error.to_string();
    let (mut sender, connection) = h2::client::handshake(stream).await.map_err(words)?;
    let request = request.header("user-agent", "hirsel-check").body(()).map_err(|error| error.to_string())?;
    let answered = async {
        let (answer, mut told) = sender.send_request(request, body.is_empty()).map_err(words)?;
        if !body.is_empty() {
            told.send_data(body.into(), true).map_err(words)?;
        }
        let (head, mut rest) = answer.await.map_err(words)?.into_parts();
        let mut came = Came { status: head.status.as_u16(), body: Vec::new(), fields: head.headers };
        while let Some(piece) = rest.data().await {
            let piece = piece.map_err(words)?;
            if came.body.len() + piece.len() > BODY_BYTES_MAX {
                // What is known is enough.
                return Ok(came);
            }
            let _ = rest.flow_control().release_capacity(piece.len());
            came.body.extend_from_slice(&piece);
        }
        came.fields.extend(rest.trailers().await.map_err(words)?.unwrap_or_default());
        Ok(came)
    };
    tokio::select! {
        answered = answered => answered,
        ended = connection => Err(ended.err().map_or_else(|| "it ended the connection".into(), words)),
    }
}

/// A message of gRPC (a byte that says it is not compressed, its length) that asks for `service` (protobuf: field 1, a text).
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        put_number(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let mut out = vec![0];
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(&message);
    out
}

/// The state in an answer (protobuf: field 1, a number); zero, which means that nothing is known, where it says none.
fn serving(body: &[u8]) -> Option<u64> {
    let (head, message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
    let mut message = message.get(..length).filter(|_| head[0] == 0)?;
    let mut state = 0;
    while !message.is_empty() {
        let key = take_number(&mut message)?;
        match (key >> 3, key & 7) {
            (1, 0) => state = take_number(&mut message)?,
            (_, 0) => drop(take_number(&mut message)?),
            (_, 2) => {
                let length = usize::try_from(take_number(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            _ => return None,
        }
    }
    Some(state)
}

fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_number(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(first & 0x7F) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    /// What comes of a question to a program that answers it so: status, body, and what comes behind it.
    async fn told(
        ask: impl AsyncFnOnce(tokio::io::DuplexStream) -> Result<u16, String>,
        (status, body, behind): (u16, &'static [u8], &[(&'static str, &'static str)]),
    ) -> (String, Result<u16, String>) {
        let (near, far) = tokio::io::duplex(4096);
        let program = async {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let asked = format!("{} {}", request.method(), request.uri());
            let answer = http::Response::builder().status(status).body(()).unwrap();
            let mut stream = respond.send_response(answer, false).unwrap();
            stream.send_data(body.into(), false).unwrap();
            let mut fields = HeaderMap::new();
            behind.iter().for_each(|(name, value)| drop(fields.insert(*name, value.parse().unwrap())));
            stream.send_trailers(fields).unwrap();
            while let Some(Ok(_)) = connection.accept().await {}
            asked
        };
        let both = async { tokio::join!(program, ask(near)) };
        tokio::time::timeout(Duration::from_secs(10), both).await.expect("hangs")
    }

    #[tokio::test]
    async fn a_program_is_asked_for_its_health_and_believed() {
        let ask = async |stream: tokio::io::DuplexStream| grpc(stream, "127.0.0.1:1", "shop.Prices").await.map(|()| 0);
        let (asked, said) = told(ask, (200, &[0, 0, 0, 0, 2, 8, 1], &[("grpc-status", "0")])).await;
        assert_eq!(asked, "POST http://127.0.0.1:1/grpc.health.v1.Health/Check");
        assert_eq!(said, Ok(0));
        let (_, said) = told(ask, (200, &[0, 0, 0, 0, 2, 8, 2], &[("grpc-status", "0")])).await;
        assert_eq!(said.unwrap_err(), "it says that it does not serve");
        let (_, said) = told(ask, (200, &[], &[("grpc-status", "12"), ("grpc-message", "unknown")])).await;
        assert_eq!(said.unwrap_err(), "status 12 unknown");
        let (_, said) = told(ask, (404, b"no", &[])).await;
        assert_eq!(said.unwrap_err(), "no answer in gRPC: status 404");
    }

    #[tokio::test]
    async fn a_page_is_asked_for_in_http_2() {
        let ask = async |stream: tokio::io::DuplexStream| {
            get(stream, "127.0.0.1:1", "/healthz?a").await.map(|came| came.status)
        };
        let (asked, said) = told(ask, (503, b"ill", &[])).await;
        assert_eq!((asked.as_str(), said), ("GET http://127.0.0.1:1/healthz?a", Ok(503)));
    }

    #[test]
    fn a_question_names_the_service_it_is_about() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("a.B"), [0, 0, 0, 0, 5, 10, 3, b'a', b'.', b'B']);
        let long = "x".repeat(300);
        assert_eq!(question(&long)[..8], [0, 0, 0, 1, 47, 10, 0xAC, 2]);
    }

    #[test]
    fn an_answer_says_whether_it_serves() {
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 2]), Some(2));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0));
        // What is not known is passed over.
        assert_eq!(serving(&[0, 0, 0, 0, 7, 18, 1, b'x', 24, 9, 8, 1]), Some(SERVING));
        for wrong in
            [&[][..], &[0, 0, 0, 0, 3, 8, 1], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 1, 8], &[0, 0, 0, 0, 2, 18, 9]]
        {
            assert_eq!(serving(wrong), None, "{wrong:?}");
        }
    }
}

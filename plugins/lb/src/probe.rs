//! Answers whoever asks whether this load balancer answers: this node itself, before it takes floating addresses, and load balancers of
//! others that stand before it (`curl -H 'host: lb.hirsel' http://NODE/`). Nothing of it is counted, and no route is asked.

use bytes::Bytes;
use hirsel_role::LB_NAME;
use http::header::HOST;
use http::{Method, Request, Response, StatusCode};

use crate::stream::AnswerBody;

/// The answer, if that is what is asked.
pub fn answer<B>(request: &Request<B>) -> Option<Response<AnswerBody>> {
    // Of what every request has, the shortest first.
    if request.uri().path() != "/" || !matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let host = request.headers().get(HOST)?.as_bytes();
    if host != LB_NAME.as_bytes() {
        return None;
    }
    let mut answer = Response::new(AnswerBody::whole(Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_question_itself_is_answered() {
        let ask = |method: Method, path: &str, host: &str| {
            let request = Request::builder().method(method).uri(path).header(HOST, host).body(()).unwrap();
            answer(&request).map(|answer| answer.status())
        };
        assert_eq!(ask(Method::GET, "/", "lb.hirsel"), Some(StatusCode::NO_CONTENT));
        assert_eq!(ask(Method::HEAD, "/", "lb.hirsel"), Some(StatusCode::NO_CONTENT));
        assert_eq!(ask(Method::POST, "/", "lb.hirsel"), None);
        assert_eq!(ask(Method::GET, "/x", "lb.hirsel"), None);
        assert_eq!(ask(Method::GET, "/", "shop.test"), None);
        assert_eq!(answer(&Request::builder().uri("/").body(()).unwrap()).map(|_| ()), None);
    }
}

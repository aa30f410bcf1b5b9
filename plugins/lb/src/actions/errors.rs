//! Pages of a route's own instead of errors in plain words. The status stays, and whatever says what a client can do about it.

use std::collections::BTreeMap;

use bytes::Bytes;
use hirsel_model::spec::{ErrorPage, Statuses};
use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION,
    CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, LAST_MODIFIED,
};
use http::{HeaderValue, Response};

use crate::matching::Unusable;
use crate::stream::AnswerBody;

/// What speaks of the body that a page takes the place of.
static OF_THE_BODY: [HeaderName; 9] = [
    ACCEPT_RANGES,
    CONTENT_DISPOSITION,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_LOCATION,
    CONTENT_RANGE,
    ETAG,
    LAST_MODIFIED,
];

/// Who gives an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The load balancer, which cannot do what was asked.
    Us,
    /// A program.
    Program,
}

/// The pages of a route.
#[derive(Debug, Default)]
pub struct ErrorPages(BTreeMap<Statuses, Page>);

#[derive(Debug)]
struct Page {
    body: Bytes,
    content_type: HeaderValue,
    programs: bool,
}

impl ErrorPages {
    /// As they are shown.
    ///
    /// # Errors
    /// If this build cannot make it out.
    pub fn of(pages: &BTreeMap<Statuses, ErrorPage>) -> Result<Self, Unusable> {
        let page = |(statuses, page): (&Statuses, &ErrorPage)| {
            let ErrorPage { body, content_type, programs } = page;
            let content_type = HeaderValue::try_from(content_type.as_str());
            let content_type = content_type.map_err(|_| Unusable::new("no type of a page"))?;
            Ok((*statuses, Page { body: body.clone().into(), content_type, programs: *programs }))
        };
        pages.iter().map(page).collect::<Result<_, _>>().map(Self)
    }

    /// `answer`, or the page that takes its place.
    pub fn dress(&self, answer: Response<AnswerBody>, by: By) -> Response<AnswerBody> {
        let status = answer.status().as_u16();
        let page = self.0.get(&Statuses::One(status)).or_else(|| self.0.get(&Statuses::Class(status / 100)));
        let Some(page) = page.filter(|page| by == By::Us || page.programs) else { return answer };
        let (mut head, replaced) = answer.into_parts();
        // What is left of it is not waited for.
        drop(replaced);
        for name in &OF_THE_BODY {
            head.headers.remove(name);
        }
        head.headers.insert(CONTENT_TYPE, page.content_type.clone());
        Response::from_parts(head, AnswerBody::whole(page.body.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use hyper::body::Body;

    fn dressed(pages: &[(&str, &str, bool)], status: u16, by: By) -> (Option<u64>, http::HeaderMap) {
        let page = |(statuses, body, programs): &(&str, &str, bool)| {
            let page = ErrorPage { body: (*body).into(), content_type: "text/html".into(), programs: *programs };
            (statuses.parse().unwrap(), page)
        };
        let pages = ErrorPages::of(&pages.iter().map(page).collect()).unwrap();
        let mut answer = Response::new(AnswerBody::whole("as it was".into()));
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in [("retry-after", "2"), ("etag", "\"a\""), ("content-length", "9"), ("content-type", "a/b")]
        {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let answer = pages.dress(answer, by);
        assert_eq!(answer.status(), status);
        (answer.body().size_hint().exact(), answer.headers().clone())
    }

    #[test]
    fn a_status_has_its_own_page_or_that_of_its_hundred() {
        let pages = [("503", "one", false), ("5xx", "hundred", false)];
        let length = |status| dressed(&pages, status, By::Us).0;
        assert_eq!((length(503), length(504), length(404), length(200)), (Some(3), Some(7), Some(9), Some(9)));
        assert_eq!(dressed(&pages, 503, By::Program).0, Some(9), "what a program says of its errors stays");
        assert_eq!(dressed(&[("5xx", "all", true)], 503, By::Program).0, Some(3));
        // The one of its own decides.
        assert_eq!(dressed(&[("5xx", "all", true), ("503", "ours", false)], 503, By::Program).0, Some(9));
    }

    #[test]
    fn what_speaks_of_the_body_goes_with_it_and_the_rest_stays() {
        let (_, headers) = dressed(&[("503", "<p>", false)], 503, By::Us);
        assert_eq!(headers["content-type"], "text/html");
        assert_eq!(headers["retry-after"], "2");
        assert!(!headers.contains_key("etag") && !headers.contains_key("content-length"));
    }
}

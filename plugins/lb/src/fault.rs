//! Why a request did not go as it should have, in one word: for logs, for counts, and for whoever asks later.

/// What went wrong, as far as we know it. Pages of our own carry it among the extensions of their answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is none that can be passed on.
    BadRequest,
    /// No route takes it.
    NoRoute,
    /// There is no such object.
    NoObject,
    /// Its client is not let in.
    Forbidden,
    /// It does not say who asks, or not rightly.
    Unauthorized,
    /// Its client has to show a certificate, and cannot.
    NoCertificate,
    /// Its connection was made for another host, or for what is not asked for any more.
    Misdirected,
    /// It came too soon after others.
    RateLimited,
    /// Its body is too large.
    TooLarge,
    /// Its body broke off.
    CutShort,
    /// No instance took it in time.
    NoInstance,
    /// Every instance had as many requests as it may, and so had the line before them.
    Overloaded,
    /// The instance went away while it worked on it.
    Broken,
    /// The instance did not answer in time.
    Timeout,
    /// It asks for what is kept, and nothing is.
    NotKept,
    /// What the instance answered is no HTTP.
    Garbled,
    /// Its route leads back to where it comes from.
    Loop,
    /// This build does not understand the route.
    NotUnderstood,
    /// The instance went away, or stood still, while its answer went out.
    AnswerBroken,
    /// We ended the connection before the answer had gone out: this node stops, or the client had long stood still.
    CutOff,
    /// The client went away before the answer had gone out.
    ResetByClient,
}

impl Fault {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Fault::BadRequest => "bad_request",
            Fault::NoRoute => "no_route",
            Fault::NoObject => "no_object",
            Fault::Forbidden => "forbidden",
            Fault::Unauthorized => "unauthorized",
            Fault::NoCertificate => "no_certificate",
            Fault::Misdirected => "misdirected",
            Fault::RateLimited => "rate_limited",
            Fault::TooLarge => "too_large",
            Fault::CutShort => "cut_short",
            Fault::NoInstance => "no_instance",
            Fault::Overloaded => "overloaded",
            Fault::Broken => "broken",
            Fault::Timeout => "timeout",
            Fault::NotKept => "not_kept",
            Fault::Garbled => "garbled",
            Fault::Loop => "loop",
            Fault::NotUnderstood => "not_understood",
            Fault::AnswerBroken => "answer_broken",
            Fault::CutOff => "cut_off",
            Fault::ResetByClient => "reset_by_client",
        }
    }
}

//! `[bucket.NAME]`: a bucket of the object store, and the routes under which what is in it is for everybody.

use std::collections::BTreeMap;

use super::errors::{Errors, quoted};
use super::route::is_path;
use super::table::{Block, Table, Word};
use super::values::size;
use crate::control::limits::{BUCKETS_PER_APP_MAX, ROUTES_PER_APP_MAX};
use crate::id::{AppName, BucketLabel};
use crate::spec::{
    Actions, Assets, BucketSpec, Cache, Conditions, PathKind, Rewrite, RouteSpec, Safety, Seen, Target, WhenShort,
    store_name, unfit_bucket,
};

const KEYS: [&str; 6] = ["copies", "erasure", "when_short", "quota", "versioning", "public"];
const WHEN_SHORT: [(&str, WhenShort); 2] = [("degrade", WhenShort::Degrade), ("refuse", WhenShort::Refuse)];
const EXPECTED_ERASURE: &str = "a text like \"4+2\" or \"8+3\"";

/// The buckets of a manifest, before anything is read of them but their names.
pub(super) struct Buckets<'a> {
    blocks: Vec<Block<'a>>,
    /// What they are called in the store, by what the manifest calls them.
    names: BTreeMap<String, String>,
}

impl<'a> Buckets<'a> {
    /// Those of `app`; where its name is wrong, so that nobody knows what they are called, they may be named all the same.
    pub(super) fn find(top: &Table<'a>, app: Option<&AppName>, errors: &mut Errors) -> Self {
        let mut blocks = top.blocks("bucket", errors);
        if blocks.len() > BUCKETS_PER_APP_MAX {
            let number = blocks.len();
            errors
                .at(blocks[BUCKETS_PER_APP_MAX].key.clone(), format!("{number} buckets exceed {BUCKETS_PER_APP_MAX}"));
            blocks.truncate(BUCKETS_PER_APP_MAX);
        }
        let mut names = BTreeMap::new();
        for block in &blocks {
            let name = match (app, block.word.parse()) {
                (Some(app), Ok(label)) => store_name(app, &label),
                _ => String::new(),
            };
            names.insert(block.word.clone(), name);
        }
        Self { blocks, names }
    }

    /// What they are called in the store, by what the manifest calls them.
    pub(super) fn names(&self) -> &BTreeMap<String, String> {
        &self.names
    }

    /// What each shall be. What is public becomes more of `routes`.
    pub(super) fn read(
        &self,
        app: Option<&AppName>,
        routes: &mut Vec<RouteSpec>,
        errors: &mut Errors,
    ) -> BTreeMap<BucketLabel, BucketSpec> {
        // Only what is written as a route says on which hosts the application is.
        let written = routes.clone();
        let mut buckets = BTreeMap::new();
        for block in &self.blocks {
            let word = Word { text: block.word.clone(), span: block.key.clone() };
            let label: Option<BucketLabel> = word.parsed(errors);
            if let Some(why) = app.zip(label.as_ref()).and_then(|(app, label)| unfit_bucket(app, label)) {
                errors.at(block.key.clone(), why);
            }
            let bucket = bucket(&block.table, errors);
            if let Some(path) = &bucket.public {
                let name = self.names.get(&block.word).cloned().unwrap_or_default();
                show(&block.table, (path, &name), &written, routes, errors);
            }
            buckets.extend(label.map(|label| (label, bucket)));
        }
        buckets
    }
}

fn bucket(table: &Table<'_>, errors: &mut Errors) -> BucketSpec {
    table.check_keys(&KEYS, &[], errors);
    let quota = |text: &str| match size(text)? {
        0 => Err("a quota of nothing keeps everything out".into()),
        bytes => Ok(bytes),
    };
    let path = |text: &str| match text.strip_suffix("/*").or(text.strip_suffix('/')).unwrap_or(text) {
        "" if text.starts_with('/') => Ok("/".to_owned()),
        path if is_path(path) && !path.contains('*') => Ok(path.to_owned()),
        _ => Err(format!("{} is no path of a request: it begins with '/', as \"/media\"", quoted(text))),
    };
    BucketSpec {
        safety: safety(table, errors).unwrap_or_default(),
        when_short: table.choice("when_short", &WHEN_SHORT, errors).unwrap_or_default(),
        quota_bytes: table.text("quota", "a size like \"10GiB\"", quota, errors),
        versioning: table.boolean("versioning", errors),
        public: table.text("public", "a path like \"/media\"", path, errors),
    }
}

fn safety(table: &Table<'_>, errors: &mut Errors) -> Option<Safety> {
    let copies = table.count("copies", 1, 3, errors).and_then(|copies| u8::try_from(copies).ok());
    let coded = |text: &str| {
        let parts = text.split_once('+').and_then(|(data, more)| Some((data.parse().ok()?, more.parse().ok()?)));
        let safety = parts.map(|(data, more)| Safety::Erasure(data, more));
        safety.filter(|it| it.is_kept()).ok_or_else(|| {
            format!("{} is not kept: \"4+2\" is, four shards with data and two more, and \"8+3\"", quoted(text))
        })
    };
    let erasure = table.text("erasure", EXPECTED_ERASURE, coded, errors);
    if table.get("copies").is_some() && table.get("erasure").is_some() {
        let message = format!("{} has both copies and erasure; one of them keeps it safe", table.path());
        errors.at(table.key_span("erasure"), message);
    }
    erasure.or(copies.map(Safety::Copies))
}

/// Adds a route to the bucket `name` below `path` for each host that the application answers for by itself.
fn show(
    table: &Table<'_>,
    (path, name): (&str, &str),
    written: &[RouteSpec],
    routes: &mut Vec<RouteSpec>,
    errors: &mut Errors,
) {
    let mut hosts: Vec<&RouteSpec> = Vec::new();
    for route in written.iter().filter(|route| !route.is_passed_through()) {
        if hosts.iter().all(|known| known.host != route.host) {
            hosts.push(route);
        }
    }
    let place = table.value_span("public");
    if hosts.is_empty() {
        let message = format!(
            "public in {}: it is shown on the hosts of this application's routes, and there is none: [route.\"HOST\"]",
            table.path()
        );
        errors.absent(place, message);
        return;
    }
    for host in hosts {
        let route = public_route(host, path, name);
        if routes.iter().any(|there| there.meets(&route) && there.when == route.when) {
            errors.at(place.clone(), format!("public in {}: there is a route {route} already", table.path()));
        } else if routes.len() >= ROUTES_PER_APP_MAX {
            let message =
                format!("public in {}: with it there are more than {ROUTES_PER_APP_MAX} routes", table.path());
            errors.at(place.clone(), message);
            return;
        } else {
            routes.push(route);
        }
    }
}

/// The way to the objects on the host of `like`, for everybody, and kept as their fields say. TLS is as on the rest of the host.
fn public_route(like: &RouteSpec, path: &str, bucket: &str) -> RouteSpec {
    let stripped = (path != "/").then(|| path.to_owned());
    let actions = Actions {
        https: like.actions.https,
        client_certificates: like.actions.client_certificates.clone(),
        rewrite: Rewrite { strip_prefix: stripped, ..Rewrite::default() },
        cache: Some(Cache::default()),
        ..Actions::default()
    };
    RouteSpec {
        host: like.host.clone(),
        path: path.to_owned(),
        to: Target::Bucket(Assets { bucket: bucket.to_owned(), index: None }),
        kind: PathKind::Prefix,
        when: Conditions::default(),
        actions: Box::new(actions),
        tls: like.tls,
        seen: Seen::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ManifestError, parse};
    use super::*;
    use crate::id::RoleName;
    use crate::spec::AppSpec;

    /// Errors are told as `LINE:COLUMN MESSAGE`, the first line of `text` being the first.
    fn read(text: &str) -> Result<AppSpec, Vec<String>> {
        let text = format!("app = \"shop\"\n{text}");
        let shown = |error: &ManifestError| format!("{}:{} {}", error.line - 1, error.column, error.message);
        let read = parse(&text, &[RoleName::lb(), RoleName::compute(), RoleName::storage()]);
        read.map(|(_, spec)| spec).map_err(|errors| errors.iter().map(shown).collect())
    }

    fn refused(text: &str) -> Vec<String> {
        read(text).unwrap_err()
    }

    #[test]
    fn a_bucket_says_how_it_is_kept_and_needs_nothing_else() {
        let spec = read("[bucket.media]\n").unwrap();
        assert_eq!(spec.buckets, [("media".parse().unwrap(), BucketSpec::default())].into());
        let spec = read(
            "[bucket.a]\ncopies = 2\nwhen_short = \"refuse\"\nquota = \"10GiB\"\nversioning = true\n\
             [bucket.b]\nerasure = \"4+2\"\nversioning = false\n[bucket.c]\nerasure = \"8+3\"\n",
        )
        .unwrap();
        let (a, b) = (&spec.buckets[&"a".parse().unwrap()], &spec.buckets[&"b".parse().unwrap()]);
        assert_eq!((a.safety, a.when_short), (Safety::Copies(2), WhenShort::Refuse));
        assert_eq!((a.quota_bytes, a.versioning), (Some(10 << 30), Some(true)));
        assert_eq!((b.safety, b.quota_bytes, b.versioning), (Safety::Erasure(4, 2), None, Some(false)));
        assert_eq!(spec.buckets[&"c".parse().unwrap()].safety, Safety::Erasure(8, 3));
    }

    #[test]
    fn what_is_wrong_is_told_where_it_stands() {
        let cases = [
            ("[bucket.media]\ncopis = 3", "2:1 unknown key \"copis\" in [bucket.media]; did you mean \"copies\"?"),
            ("[bucket.media]\ncopies = 4", "2:10 copies in [bucket.media]: 4 is not between 1 and 3"),
            (
                "[bucket.media]\nerasure = \"8+2\"",
                "2:11 erasure in [bucket.media]: \"8+2\" is not kept: \"4+2\" is, four shards with data and two more, and \"8+3\"",
            ),
            (
                "[bucket.media]\ncopies = 3\nerasure = \"4+2\"",
                "3:1 [bucket.media] has both copies and erasure; one of them keeps it safe",
            ),
            (
                "[bucket.media]\nquota = \"0GiB\"",
                "2:9 quota in [bucket.media]: a quota of nothing keeps everything out",
            ),
            (
                "[bucket.media]\nwhen_short = \"refuze\"",
                "2:14 unknown when_short in [bucket.media]: \"refuze\"; did you mean \"refuse\"?",
            ),
            ("[bucket.Media]", "1:9 \"Media\" is no name"),
            (
                "[bucket.media]\npublic = \"media\"",
                "2:10 public in [bucket.media]: \"media\" is no path of a request: it begins with '/', as \"/media\"",
            ),
            (
                "[bucket.media]\npublic = \"/media\"",
                "2:10 public in [bucket.media]: it is shown on the hosts of this application's routes, and there is none: [route.\"HOST\"]",
            ),
        ];
        for (text, expected) in cases {
            let errors = refused(text);
            assert!(errors.len() == 1 && errors[0].starts_with(expected), "{text}: {errors:#?}");
        }
        let long = format!("[bucket.{}]", "a".repeat(60));
        assert!(refused(&long)[0].starts_with("1:9 bucket aaaa"), "{:?}", refused(&long));
    }

    #[test]
    fn what_is_public_is_on_every_host_of_the_application_as_the_rest_of_it_is() {
        let spec = read(
            "[bucket.media]\npublic = \"/media/\"\n\
             [route.\"a.test\"]\nrespond = { status = 204 }\nredirect = \"https\"\ntls = \"auto\"\n\
             [route.\"a.test/api\"]\nrespond = { status = 204 }\n\
             [route.\"*.b.test\"]\nrespond = { status = 204 }\nbasic_auth = { realm = \"x\", users = { me = \"${secret.pw}\" } }\n",
        )
        .unwrap();
        let public: Vec<_> = spec.routes.iter().filter(|route| matches!(route.to, Target::Bucket(_))).collect();
        assert_eq!(public.iter().map(|it| it.to_string()).collect::<Vec<_>>(), ["a.test/media", "*.b.test/media"]);
        let Target::Bucket(to) = &public[0].to else { panic!("{:?}", public[0].to) };
        assert_eq!((to.bucket.as_str(), &to.index), ("shop-media", &None));
        let (first, second) = (&public[0].actions, &public[1].actions);
        assert_eq!((first.rewrite.strip_prefix.as_deref(), first.https), (Some("/media"), Some(302)));
        assert!(first.cache.is_some() && public[0].tls == spec.routes[0].tls);
        assert!(second.basic_auth.is_none(), "public is for everybody");
        assert_eq!(
            refused(
                "[bucket.a]\npublic = \"/x\"\n[bucket.b]\npublic = \"/x\"\n[route.\"a.test/x\"]\nto = \"bucket:else\"\n"
            ),
            [
                "2:10 public in [bucket.a]: there is a route a.test/x already",
                "4:10 public in [bucket.b]: there is a route a.test/x already",
            ]
        );
    }

    #[test]
    fn a_route_means_the_applications_own_bucket_where_it_has_one_of_that_name() {
        let spec = read(
            "[bucket.media]\n[route.\"a.test/own\"]\nto = \"bucket:media\"\n[route.\"a.test/other\"]\nto = \"bucket:other\"\n",
        )
        .unwrap();
        let to = spec.routes.iter().map(|route| match &route.to {
            Target::Bucket(assets) => assets.to_string(),
            other => panic!("{other:?}"),
        });
        let to: Vec<String> = to.collect();
        assert_eq!(to, ["bucket:shop-media", "bucket:other"]);
    }

    #[test]
    fn a_program_is_told_what_it_asks_for_and_nothing_that_there_is_not() {
        let service = |env: &str, word: &str| {
            format!("[bucket.media]\n[service.web]\ncommand = [\"serve\", \"{word}\"]\nenv = {{ S3 = \"{env}\" }}\n")
        };
        for env in ["${bucket.media.url}", "s3://${bucket.media.name}?region=${bucket.media.region}", "$${bucket.x}"] {
            assert!(read(&service(env, "${S3}")).is_ok(), "{env}");
        }
        let cases = [
            (
                "${bucket.medai.url}",
                "",
                "4:14 \"S3\" in [service.web.env]: no bucket named \"medai\"; did you mean \"media\"?",
            ),
            (
                "${bucket.media.uri}",
                "",
                "4:14 \"S3\" in [service.web.env]: unknown value of bucket media: \"uri\"; did you mean \"url\"?",
            ),
            (
                "${bucket.media}",
                "",
                "4:14 \"S3\" in [service.web.env]: ${bucket.media} says not what of it: ${bucket.media.url}; known are url, endpoint, name, region, access_key_id, secret_access_key",
            ),
            (
                "x",
                "${bucket.media.url}",
                "3:21 command in [service.web]: what is told of a bucket comes with the environment: put it into env: NAME = \"${bucket.media.url}\", and write ${NAME} here",
            ),
            (
                "${bucket.media.secret_access_key}",
                "${S3}",
                "3:21 command in [service.web]: S3 holds a secret, and a command is seen by whoever lists processes; let the program read S3 from its environment",
            ),
        ];
        for (env, word, expected) in cases {
            assert_eq!(refused(&service(env, word)), [expected], "{env} {word}");
        }
    }
}

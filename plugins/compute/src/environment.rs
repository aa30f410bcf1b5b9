//! Makes up the environment and the command of an instance. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use hirsel_model::access::AccessKeyId;
use hirsel_model::secret::references;
use hirsel_model::spec::{BucketValue, ServiceSpec, bucket_reference, holds_access_secret, store_name};
use hirsel_model::{AppName, InstanceId, Revision, SecretName};
use hirsel_role::Me;
use hirsel_role::secret::Plain;

/// Where programs are looked for, when the service does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an instance is told about itself.
pub(crate) struct Facts<'a> {
    pub me: &'a Me,
    pub id: &'a InstanceId,
    pub revision: Revision,
    pub port: u16,
    /// Rises with every start of an exclusive instance, wherever that is.
    pub fence: Option<u64>,
    pub own_folder: Option<String>,
    pub executable: Option<String>,
    pub store: Store,
}

/// The object store as an instance reaches it: at its own node, which answers for all objects as any other does.
#[derive(Default)]
pub(crate) struct Store {
    /// Where this node answers; none where it does not.
    pub addr: Option<SocketAddr>,
    pub region: String,
    /// The access key of its application, with its secret.
    pub key: Option<(AccessKeyId, Plain)>,
}

impl Store {
    fn value(&self, app: &AppName, reference: &str) -> Option<Result<String, String>> {
        let (label, value) = bucket_reference(reference)?;
        let endpoint = || {
            let off = || "this node serves no objects: `s3 = true` under [storage] in the file of its agent".to_owned();
            self.addr.map(|addr| format!("http://{addr}")).ok_or_else(off)
        };
        let key = || self.key.as_ref().ok_or_else(|| format!("the access key of {app} is not here"));
        Some(match value {
            BucketValue::Url => endpoint().map(|endpoint| format!("{endpoint}/{}", store_name(app, &label))),
            BucketValue::Endpoint => endpoint(),
            BucketValue::Name => Ok(store_name(app, &label)),
            BucketValue::Region => Ok(self.region.clone()),
            BucketValue::AccessKeyId => key().map(|(id, _)| id.to_string()),
            BucketValue::SecretAccessKey => key().map(|(_, secret)| secret.0.clone()),
        })
    }
}

/// What an instance is run with.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Composed {
    /// What may be seen.
    pub env: BTreeMap<String, String>,
    /// Variables that hold a secret.
    pub secret_env: BTreeMap<String, Plain>,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// Environment and command, variables put in. `${NAME}` in a value of the service's environment stands for what every instance has, and
/// `${secret.NAME}` for a secret, and `${bucket.NAME.VALUE}` for something of a bucket; in the command `${NAME}` may also be one of the service's own variables that holds no secret. `$${`
/// writes `${`. A variable that does not exist is an error.
pub(crate) fn compose(
    service: &ServiceSpec,
    facts: &Facts<'_>,
    secrets: &BTreeMap<SecretName, Plain>,
) -> Result<Composed, String> {
    let given = contract(facts);
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("HOME".to_owned(), facts.own_folder.clone().unwrap_or_else(|| "/".into())),
    ]);
    env.extend(given.clone());
    let (mut own, mut secret_env) = (BTreeMap::new(), BTreeMap::new());
    for (name, text) in &service.env {
        let wrong = |error| format!("variable {name} of the environment: {error}");
        let given = |reference: &str| match reference.strip_prefix("secret.") {
            Some(secret) => Some(Ok(secrets.get(&secret.parse::<SecretName>().ok()?)?.0.clone())),
            None => facts.store.value(&facts.id.app, reference),
        };
        let value = substitute(text, &env, given).map_err(wrong)?;
        if references(text).is_empty() && !holds_access_secret(text) {
            own.insert(name.clone(), value);
        } else {
            secret_env.insert(name.clone(), Plain(value));
        }
    }
    env.extend(own);
    // An instance that listens elsewhere than it is told is not found.
    secret_env.retain(|name, _| !given.contains_key(name));
    env.extend(given);
    env.retain(|name, _| !secret_env.contains_key(name));
    let command = service
        .command
        .iter()
        .map(|word| substitute(word, &env, |_| None).map_err(|error| format!("command: {error}")))
        .collect::<Result<_, _>>()?;
    Ok(Composed { env, secret_env, command })
}

fn contract(facts: &Facts<'_>) -> BTreeMap<String, String> {
    let host = match facts.me.instance_host {
        IpAddr::V4(addr) => addr.to_string(),
        IpAddr::V6(addr) => addr.to_string(),
    };
    let pairs = [
        ("HOST", host),
        ("PORT", facts.port.to_string()),
        ("HIRSEL_NODE", facts.me.id.to_string()),
        ("HIRSEL_NODE_NAME", facts.me.name.to_string()),
        ("HIRSEL_ZONE", facts.me.zone.to_string()),
        ("HIRSEL_APP", facts.id.app.to_string()),
        ("HIRSEL_SERVICE", facts.id.service.to_string()),
        ("HIRSEL_INSTANCE", facts.id.to_string()),
        ("HIRSEL_REVISION", facts.revision.to_string()),
    ];
    let mut all: BTreeMap<String, String> = pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    all.extend(facts.fence.map(|fence| ("HIRSEL_FENCE".to_owned(), fence.to_string())));
    all.extend(facts.executable.clone().map(|path| ("HIRSEL_EXE".to_owned(), path)));
    all
}

/// Puts variables, and what is `given` besides, into a text. No error holds the value of a secret.
fn substitute(
    text: &str,
    variables: &BTreeMap<String, String>,
    given: impl Fn(&str) -> Option<Result<String, String>>,
) -> Result<String, String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            result.push_str(&rest[..at]);
            result.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        result.push_str(&rest[..at]);
        let Some((name, after)) = rest[at + 2..].split_once('}') else {
            return Err(format!("{text:?} has a \"${{\" without \"}}\""));
        };
        match variables.get(name) {
            Some(value) => result.push_str(value),
            None => result.push_str(&given(name).ok_or_else(|| unknown(name, variables))??),
        }
        rest = after;
    }
    result.push_str(rest);
    Ok(result)
}

fn unknown(name: &str, variables: &BTreeMap<String, String>) -> String {
    let known: Vec<&str> = variables.keys().map(String::as_str).collect();
    format!("no variable {name:?}; there are {}; write $${{{name}}} to pass it on as it is", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hirsel_model::NodeId;
    use hirsel_model::spec::{Capacity, Replicas, Spread, StopSpec, UpdateSpec};

    fn compose_for(command: &[&str], env: &[(&str, &str)]) -> Result<(BTreeMap<String, String>, Vec<String>), String> {
        compose_with(command, env, &[]).map(|composed| (composed.env, composed.command))
    }

    fn compose_with(command: &[&str], env: &[(&str, &str)], secrets: &[(&str, &str)]) -> Result<Composed, String> {
        compose_at(command, env, secrets, Store::default())
    }

    fn compose_at(
        command: &[&str],
        env: &[(&str, &str)],
        secrets: &[(&str, &str)],
        store: Store,
    ) -> Result<Composed, String> {
        let secret = |(name, value): &(&str, &str)| (name.parse().unwrap(), Plain((*value).to_owned()));
        let secrets = secrets.iter().map(secret).collect();
        let service = ServiceSpec {
            revision: Revision(4),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            workdir: None,
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            user: None,
            replicas: Replicas { min: 1, max: 1 },
            resources: Capacity::default(),
            health: None,
            update: UpdateSpec::default(),
            stop: StopSpec::default(),
            constraints: BTreeMap::new(),
            spread: Spread::default(),
            exclusive: false,
            secrets: BTreeMap::new(),
            protocol: Default::default(),
        };
        let me = Me {
            id: NodeId(3),
            name: "n3".parse().unwrap(),
            zone: "b".parse().unwrap(),
            instance_host: "127.0.0.3".parse().unwrap(),
            bind: "127.0.0.3".parse().unwrap(),
        };
        let id = "shop/web/17".parse().unwrap();
        compose(
            &service,
            &Facts {
                me: &me,
                id: &id,
                revision: Revision(4),
                port: 20_117,
                fence: Some(77),
                own_folder: Some("/data/17".into()),
                executable: Some("/usr/bin/hirsel".into()),
                store,
            },
            &secrets,
        )
    }

    #[test]
    fn a_secret_is_in_the_environment_of_its_program_and_nowhere_else() {
        let env = [("URL", "pg://u:${secret.pw}@${HOST}/$${x}"), ("PLAIN", "1"), ("PATH", "${secret.pw}")];
        let composed = compose_with(&["serve", "${PLAIN}"], &env, &[("pw", "s3cret")]).unwrap();
        assert_eq!(composed.secret_env["URL"].0, "pg://u:s3cret@127.0.0.3/${x}");
        assert_eq!((composed.secret_env.len(), composed.env["PLAIN"].as_str()), (2, "1"));
        assert!(!composed.env.contains_key("PATH"), "a variable is there once");
        assert!(!format!("{composed:?}").contains("s3cret"));
        let error = compose_with(&["serve", "${URL}"], &env, &[("pw", "s3cret")]).unwrap_err();
        assert!(error.starts_with("command: no variable \"URL\"") && !error.contains("s3cret"), "{error}");
        let error = compose_with(&["serve"], &env, &[]).unwrap_err();
        assert!(error.contains("no variable \"secret.pw\""), "{error}");
        let error = compose_with(&["serve"], &[("A", "${secret.pw} ${NO}")], &[("pw", "s3cret")]).unwrap_err();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn what_is_told_of_a_bucket_is_this_nodes_and_the_secret_of_its_key_is_one() {
        let store = || Store {
            addr: Some("127.0.0.3:7480".parse().unwrap()),
            region: "hirsel".into(),
            key: Some(("AKIAIOSFODNN7EXAMPLE".parse().unwrap(), Plain("s3cret".into()))),
        };
        let env = [
            ("MEDIA", "${bucket.media.url}"),
            ("AWS_ENDPOINT_URL", "${bucket.media.endpoint}"),
            ("BUCKET", "${bucket.media.name}"),
            ("AWS_REGION", "${bucket.media.region}"),
            ("AWS_ACCESS_KEY_ID", "${bucket.media.access_key_id}"),
            ("AWS_SECRET_ACCESS_KEY", "${bucket.media.secret_access_key}"),
        ];
        let composed = compose_at(&["serve", "${MEDIA}"], &env, &[], store()).unwrap();
        assert_eq!(composed.command[1], "http://127.0.0.3:7480/shop-media");
        let told = |name: &str| composed.env.get(name).map(String::as_str);
        assert_eq!(told("AWS_ENDPOINT_URL"), Some("http://127.0.0.3:7480"));
        assert_eq!((told("BUCKET"), told("AWS_REGION")), (Some("shop-media"), Some("hirsel")));
        assert_eq!(told("AWS_ACCESS_KEY_ID"), Some("AKIAIOSFODNN7EXAMPLE"));
        assert_eq!((told("AWS_SECRET_ACCESS_KEY"), composed.secret_env.len()), (None, 1));
        assert_eq!(composed.secret_env["AWS_SECRET_ACCESS_KEY"].0, "s3cret");
        assert!(!format!("{composed:?}").contains("s3cret"));

        let without = compose_at(&["serve"], &env[..1], &[], Store::default()).unwrap_err();
        assert!(without.contains("this node serves no objects"), "{without}");
        let keyless = Store { key: None, ..store() };
        let without = compose_at(&["serve"], &env[4..], &[], keyless).unwrap_err();
        assert!(without.contains("the access key of shop is not here"), "{without}");
        let unknown = compose_at(&["serve"], &[("A", "${bucket.media.uri}")], &[], store()).unwrap_err();
        assert!(unknown.contains("no variable \"bucket.media.uri\""), "{unknown}");
    }

    #[test]
    fn an_instance_is_told_where_to_listen_and_who_it_is() {
        let (env, command) = compose_for(&["serve", "--bind", "${HOST}:${PORT}"], &[]).unwrap();
        assert_eq!(command, ["serve", "--bind", "127.0.0.3:20117"]);
        let expected = "HIRSEL_APP=shop HIRSEL_EXE=/usr/bin/hirsel HIRSEL_FENCE=77 HIRSEL_INSTANCE=shop/web/17 HIRSEL_NODE=3 HIRSEL_NODE_NAME=n3 \
            HIRSEL_REVISION=4 HIRSEL_SERVICE=web HIRSEL_ZONE=b HOME=/data/17 HOST=127.0.0.3 LANG=C.UTF-8 \
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PORT=20117";
        let found: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(found.join(" "), expected);
    }

    #[test]
    fn a_service_adds_variables_and_may_change_all_but_those_of_the_contract() {
        let own = [("PATH", "/opt/bin:${PATH}"), ("NAME", "${HIRSEL_APP}@${HIRSEL_ZONE}"), ("PORT", "80")];
        let (env, command) = compose_for(&["echo", "I am ${NAME}, not $NAME or $${NAME}"], &own).unwrap();
        assert_eq!(env["PATH"], format!("/opt/bin:{PATH}"));
        assert_eq!(env["PORT"], "20117");
        assert_eq!(command[1], "I am shop@b, not $NAME or ${NAME}");
    }

    #[test]
    fn a_variable_that_does_not_exist_is_refused_with_the_ones_there_are() {
        let error = compose_for(&["echo", "${HOSTS}"], &[("A", "1")]).unwrap_err();
        assert!(error.starts_with("command: no variable \"HOSTS\"; there are A, HIRSEL_APP, "), "{error}");
        assert!(error.ends_with("write $${HOSTS} to pass it on as it is"), "{error}");
        let error = compose_for(&["x"], &[("A", "${B}"), ("B", "1")]).unwrap_err();
        assert!(error.starts_with("variable A of the environment: no variable \"B\""), "{error}");
        let error = compose_for(&["${HOST"], &[]).unwrap_err();
        assert_eq!(error, "command: \"${HOST\" has a \"${\" without \"}\"");
    }
}

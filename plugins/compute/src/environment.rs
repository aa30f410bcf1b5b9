//! Makes up the environment and the command of an instance. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hirsel_model::secret::references;
use hirsel_model::spec::ServiceSpec;
use hirsel_model::{InstanceId, Revision, SecretName};
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
/// `${secret.NAME}` for a secret; in the command `${NAME}` may also be one of the service's own variables that holds no secret. `$${`
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
        if references(text).is_empty() {
            own.insert(name.clone(), substitute(text, &env, &BTreeMap::new()).map_err(wrong)?);
        } else {
            secret_env.insert(name.clone(), Plain(substitute(text, &env, secrets).map_err(wrong)?));
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
        .map(|word| substitute(word, &env, &BTreeMap::new()).map_err(|error| format!("command: {error}")))
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

/// Puts variables and secrets into a text. No error holds the value of a secret.
fn substitute(
    text: &str,
    variables: &BTreeMap<String, String>,
    secrets: &BTreeMap<SecretName, Plain>,
) -> Result<String, String> {
    let secret = |name: &str| Some(&secrets.get(&name.strip_prefix("secret.")?.parse::<SecretName>().ok()?)?.0);

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
        let value = variables.get(name).or_else(|| secret(name)).ok_or_else(|| unknown(name, variables))?;
        result.push_str(value);
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

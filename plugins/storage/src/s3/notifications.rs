//! Whom buckets tell of changes: webhooks, by the name `arn:hirsel:webhook:::URL`. What is told to whom is [`crate::rules::notify`], and how it
//! comes there [`crate::tell`].

use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::access::Action;
use super::error::{Done, argument, error, strange};
use super::front::Front;
use crate::meta::kinds::DocumentKind;
use crate::meta::query::{Query, Reply};
use crate::rules::notify::{self, Rule};

/// `GetBucketNotificationConfiguration`.
pub async fn get_bucket_notification_configuration(
    front: &Front,
    request: S3Request<GetBucketNotificationConfigurationInput>,
) -> Done<S3Response<GetBucketNotificationConfigurationOutput>> {
    let asked = front.asked(&request);
    let (name, _) = front.bucket(&asked, Action::GetBucketNotification, &request.input.bucket).await?;
    let kept = front.look(Query::Document(name, DocumentKind::Notification)).await?;
    let Reply::Document(text) = kept else { return Err(strange()) };
    let unreadable = |_| error("InternalError", "the notifications of the bucket cannot be read");
    let rules: Option<Vec<Rule>> = text.map(|text| serde_json::from_str(&text)).transpose().map_err(unreadable)?;
    let topic_configurations = rules.map(|rules| rules.into_iter().map(topic).collect());
    Ok(S3Response::new(GetBucketNotificationConfigurationOutput {
        topic_configurations,
        ..GetBucketNotificationConfigurationOutput::default()
    }))
}

/// `PutBucketNotificationConfiguration`. One that is empty tells nobody any more.
pub async fn put_bucket_notification_configuration(
    front: &Front,
    request: S3Request<PutBucketNotificationConfigurationInput>,
) -> Done<S3Response<PutBucketNotificationConfigurationOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, _) = front.bucket(&asked, Action::PutBucketNotification, &input.bucket).await?;
    let NotificationConfiguration {
        event_bridge_configuration,
        lambda_function_configurations,
        queue_configurations,
        topic_configurations,
    } = input.notification_configuration;
    if event_bridge_configuration.is_some()
        || lambda_function_configurations.is_some_and(|all| !all.is_empty())
        || queue_configurations.is_some_and(|all| !all.is_empty())
    {
        return Err(argument("only topics are told, which are webhooks: arn:hirsel:webhook:::http://…"));
    }
    let mut rules = Vec::new();
    for topic in topic_configurations.into_iter().flatten() {
        rules.push(rule(front, topic)?);
    }
    notify::check(&rules).map_err(|why| argument(why.to_string()))?;
    let text = match rules.is_empty() {
        true => None,
        false => Some(serde_json::to_string(&rules).map_err(|_| strange())?),
    };
    front.keep(name, DocumentKind::Notification, text).await?;
    Ok(S3Response::new(PutBucketNotificationConfigurationOutput::default()))
}

fn rule(front: &Front, topic: TopicConfiguration) -> Done<Rule> {
    let (mut prefix, mut suffix) = (None, None);
    let filters = topic.filter.and_then(|filter| filter.key).and_then(|key| key.filter_rules).unwrap_or_default();
    for filter in filters {
        let value = filter.value.unwrap_or_default();
        let name = filter.name.map(|name| name.as_str().to_ascii_lowercase()).unwrap_or_default();
        let place = match name.as_str() {
            "prefix" => &mut prefix,
            "suffix" => &mut suffix,
            other => return Err(argument(format!("a filter of keys is by prefix or suffix, not by {other:.20?}"))),
        };
        if place.replace(value).is_some() {
            return Err(argument("a prefix and a suffix are said once each"));
        }
    }
    let drawn = || format!("{:016x}", front.gateway.chance().number());
    Ok(Rule {
        id: topic.id.filter(|id| !id.is_empty()).unwrap_or_else(drawn),
        to: topic.topic_arn,
        events: topic.events.into_iter().map(String::from).collect(),
        prefix: prefix.unwrap_or_default(),
        suffix: suffix.unwrap_or_default(),
    })
}

fn topic(rule: Rule) -> TopicConfiguration {
    let filter = |name: &'static str, value: String| FilterRule {
        name: Some(FilterRuleName::from_static(name)),
        value: Some(value),
    };
    let said = [(FilterRuleName::PREFIX, rule.prefix), (FilterRuleName::SUFFIX, rule.suffix)];
    let said: Vec<FilterRule> =
        said.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| filter(name, value)).collect();
    let key = (!said.is_empty()).then_some(S3KeyFilter { filter_rules: Some(said) });
    TopicConfiguration {
        events: rule.events.into_iter().map(Event::from).collect(),
        filter: key.map(|key| NotificationConfigurationFilter { key: Some(key) }),
        id: Some(rule.id),
        topic_arn: rule.to,
    }
}

//! The lists of a routing object that share traffic, and their weights. Pure: nothing here asks a server.
//!
//! Objects are read and written as JSON: what another version of Istio or of the Gateway API knows besides stays as it is.

use rollback_core::{Error, Kind, PartId, PartMap, Result, Weight};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How an Istio VirtualService names a side: by the subset of a DestinationRule, by host, or by both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    host: Option<String>,
    subset: Option<String>,
}

impl Destination {
    /// Every destination with this subset, whatever its host.
    ///
    /// ```
    /// use rollback_k8s::Destination;
    /// let stable = Destination::subset("stable");
    /// let of_one_host = Destination::subset("stable").with_host("checkout");
    /// ```
    pub fn subset(subset: impl Into<String>) -> Self {
        Self { host: None, subset: Some(subset.into()) }
    }
    /// Every destination with this host, whatever its subset: a Service of its own for each side. A short name is one of the
    /// object's namespace.
    pub fn host(host: impl Into<String>) -> Self {
        Self { host: Some(host.into()), subset: None }
    }
    /// Only with this host.
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }
}

/// How a routing object names a side.
#[derive(Clone, Debug)]
pub(super) enum End {
    Istio(Destination),
    /// A Service of the same namespace.
    Backend(String),
}

impl End {
    fn is(&self, entry: &Value, namespace: &str) -> bool {
        let text = |at: &str| entry.pointer(at).and_then(Value::as_str);
        match self {
            End::Istio(Destination { host, subset }) => {
                let there = text("/destination/host").unwrap_or_default();
                host.as_ref().is_none_or(|host| full(host, namespace) == full(there, namespace))
                    && subset.as_ref().is_none_or(|subset| text("/destination/subset") == Some(subset))
            }
            End::Backend(name) => {
                text("/name") == Some(name)
                    && text("/kind").is_none_or(|kind| kind == "Service")
                    && text("/group").is_none_or(str::is_empty)
                    && text("/namespace").is_none_or(|other| other == namespace)
            }
        }
    }
}

/// A host as Istio completes it.
fn full(host: &str, namespace: &str) -> String {
    if host.contains('.') { host.to_owned() } else { format!("{host}.{namespace}.svc.cluster.local") }
}

/// Which lists of an object share traffic, and what a weight that is not there means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    VirtualService,
    HttpRoute,
}

impl Form {
    /// Lists of routes, and where each of them has its list of destinations.
    fn lists(self) -> (&'static [&'static str], &'static str) {
        match self {
            Form::VirtualService => (&["/spec/http", "/spec/tcp", "/spec/tls"], "route"),
            Form::HttpRoute => (&["/spec/rules"], "backendRefs"),
        }
    }
    fn weight(self, list: &[Value], at: usize) -> u64 {
        let said = list.get(at).and_then(|entry| entry.get("weight")).and_then(Value::as_u64);
        match self {
            // The only one gets everything, whatever it says.
            Form::VirtualService if list.len() == 1 => 100,
            Form::VirtualService => said.unwrap_or(0),
            Form::HttpRoute => said.unwrap_or(1),
        }
    }
}

/// A list of destinations that names all sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Split {
    /// For people: its name, else where it stands.
    pub(super) name: String,
    /// Where it is in the object.
    path: String,
    /// As it was read: a write compares with it.
    list: Vec<Value>,
    /// Which entry is whose.
    places: PartMap<usize>,
    /// What each entry has, in the order of the list.
    weights: Vec<u64>,
}

/// What an object says of the sides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Lists {
    splits: Vec<Split>,
    /// Lists that name some sides only: requests that are matched by a header, or a route where nothing is shared.
    lone: Vec<(String, PartId)>,
}

fn unfit(why: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, "read the routes").with_message(why).without_effect()
}

impl Lists {
    pub(super) fn of(form: Form, data: &Value, namespace: &str, ends: &PartMap<End>) -> Result<Self> {
        let mut lists = Lists::default();
        let (at, inner) = form.lists();
        for at in at {
            let routes = data.pointer(at).and_then(Value::as_array).into_iter().flatten();
            for (nth, route) in routes.enumerate() {
                let Some(list) = route.get(inner).and_then(Value::as_array) else { continue };
                let path = format!("{at}/{nth}/{inner}");
                let name = route.get("name").and_then(Value::as_str).unwrap_or(&path).to_owned();
                let mut places = PartMap::new();
                for (part, end) in ends.iter() {
                    let mut found = (0..list.len()).filter(|i| end.is(&list[*i], namespace));
                    if let Some(place) = found.next() {
                        places.insert(part.clone(), place);
                    }
                    if found.next().is_some() {
                        return Err(unfit(format!("{name} names {part} twice: say more of it, its host for example")));
                    }
                }
                if places.len() == ends.len() {
                    let weights = (0..list.len()).map(|i| form.weight(list, i)).collect();
                    lists.splits.push(Split { name, path, list: list.clone(), places, weights });
                } else {
                    lists.lone.extend(places.keys().map(|part| (name.clone(), part.clone())));
                }
            }
        }
        if lists.splits.is_empty() && lists.lone.is_empty() {
            let sides: Vec<&str> = ends.keys().map(PartId::as_str).collect();
            return Err(unfit(format!("it has no route to {}: name its destinations as they are", sides.join(" or "))));
        }
        Ok(lists)
    }

    /// What a side gets at the most, in any of the lists. Where lists differ, the sides' shares come to more than all: a
    /// side has left only when no list sends to it any more.
    pub(super) fn most(&self, part: &PartId) -> Weight {
        if self.splits.is_empty() {
            return if self.lone.iter().any(|(_, lone)| lone == part) { Weight::ALL } else { Weight::NONE };
        }
        self.splits.iter().map(|split| split.share(part)).max().unwrap_or(Weight::NONE)
    }

    /// Routes that send to a side, and share nothing with the others: they stay as they are.
    pub(super) fn only_to(&self, part: &PartId) -> Vec<&str> {
        let shared = !self.splits.is_empty();
        self.lone.iter().filter(|(_, lone)| shared && lone == part).map(|(name, _)| name.as_str()).collect()
    }

    /// The operations that give the sides these shares, and what they change; none where it is so already.
    ///
    /// # Errors
    /// Where a list cannot express them.
    pub(super) fn set(&self, shares: &PartMap<Weight>) -> Result<(Vec<Value>, Vec<Changed>)> {
        let (mut operations, mut changed) = (vec![], vec![]);
        if self.splits.is_empty()
            && let Some((part, share)) = shares.iter().find(|(part, share)| self.most(part) != **share)
        {
            return Err(unfit(format!(
                "none of its routes names all sides, so {part} cannot get {share}: add the missing side with weight 0"
            )));
        }
        for split in &self.splits {
            if shares.iter().all(|(part, share)| split.share(part) == *share) {
                continue;
            }
            let list = split.with(shares)?;
            // By position, but only while what stands there is what was matched by name.
            operations.push(json!({"op": "test", "path": split.path, "value": split.list}));
            operations.push(json!({"op": "replace", "path": split.path, "value": list}));
            let from = text(shares.keys().map(|part| (part, split.share(part))));
            let to = text(shares.iter().map(|(part, share)| (part, *share)));
            changed.push(Changed { route: split.name.clone(), from, to });
        }
        Ok((operations, changed))
    }
}

/// What a write changes in one list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Changed {
    pub(super) route: String,
    pub(super) from: String,
    pub(super) to: String,
}

/// Shares as people read them, and as a mark holds them.
pub(super) fn text<'a>(shares: impl Iterator<Item = (&'a PartId, Weight)>) -> String {
    shares.map(|(part, share)| format!("{part} {share}")).collect::<Vec<_>>().join(", ")
}

impl Split {
    /// The weights of all sides together. What other destinations have is theirs.
    fn sum(&self) -> u64 {
        self.places.values().map(|place| self.weights[*place]).sum()
    }
    fn share(&self, part: &PartId) -> Weight {
        let own = self.places.get(part).map_or(0, |place| self.weights[*place]);
        match self.sum() {
            0 => Weight::NONE,
            sum => Weight::ratio(own, sum),
        }
    }
    fn with(&self, shares: &PartMap<Weight>) -> Result<Vec<Value>> {
        let alone = self.places.len() == self.list.len();
        let part_of = |sum: u64, share: &Weight| sum * u64::from(share.points());
        let exact = |sum: u64| {
            sum > 0 && shares.values().all(|share| part_of(sum, share).is_multiple_of(Weight::ALL.points().into()))
        };
        // Alone, they are free to count in per cent; with others, what the sides have together must stay.
        let sums = [self.sum(), 100, 10_000];
        let sum = sums.into_iter().take(if alone { 3 } else { 1 }).find(|sum| exact(*sum)).ok_or_else(|| {
            unfit(format!(
                "{} gives the sides {} together, beside other destinations, and that cannot be shared as {}: use weights \
                 of per cent",
                self.name,
                self.sum(),
                text(shares.iter().map(|(part, share)| (part, *share)))
            ))
        })?;
        let mut list = self.list.clone();
        for (part, share) in shares.iter() {
            let entry = self.places.get(part).and_then(|place| list.get_mut(*place)).and_then(Value::as_object_mut);
            let entry = entry.ok_or_else(|| unfit(format!("{} does not name {part}", self.name)))?;
            entry.insert("weight".into(), json!(part_of(sum, share) / u64::from(Weight::ALL.points())));
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ends() -> PartMap<End> {
        ["stable", "canary"].map(|subset| (subset.into(), End::Istio(Destination::subset(subset)))).into()
    }
    fn to(subset: &str, weight: u64) -> Value {
        json!({"destination": {"host": "shop", "subset": subset}, "weight": weight})
    }
    fn lists(http: Value) -> Result<Lists> {
        Lists::of(Form::VirtualService, &json!({"spec": {"http": http}}), "ns", &ends())
    }
    fn shares(stable: u16) -> PartMap<Weight> {
        [("stable".into(), Weight::percent(stable)), ("canary".into(), Weight::percent(stable).rest())].into()
    }
    fn weights(list: &Value) -> Vec<u64> {
        list.as_array().unwrap().iter().map(|entry| entry["weight"].as_u64().unwrap()).collect()
    }
    fn share(lists: &Lists, part: &str) -> u16 {
        lists.most(&part.into()).points() / 100
    }

    #[test]
    fn sides_are_found_by_name_wherever_they_stand() {
        let swapped = lists(json!([{"route": [to("canary", 20), to("stable", 80)]}])).unwrap();
        assert_eq!((share(&swapped, "stable"), share(&swapped, "canary")), (80, 20));
        let (operations, changed) = swapped.set(&shares(95)).unwrap();
        let [test, replace] = &operations[..] else { panic!("{operations:?}") };
        assert_eq!((test["op"].as_str(), &test["value"]), (Some("test"), &json!([to("canary", 20), to("stable", 80)])));
        assert_eq!((replace["op"].as_str(), replace["path"].as_str()), (Some("replace"), Some("/spec/http/0/route")));
        assert_eq!(weights(&replace["value"]), [5, 95]);
        assert_eq!(
            (changed[0].from.as_str(), changed[0].to.as_str()),
            ("canary 20%, stable 80%", "canary 5%, stable 95%")
        );
    }

    #[test]
    fn only_what_shares_traffic_is_written() {
        let all = lists(json!([
            {"name": "testers", "match": [{}], "route": [to("canary", 100)]},
            {"name": "other", "route": [{"destination": {"host": "cart"}}]},
            {"name": "first", "route": [to("stable", 50), to("canary", 50)]},
            {"name": "second", "route": [to("stable", 80), to("canary", 20)]},
            {"redirect": {"uri": "/"}},
        ]))
        .unwrap();
        assert_eq!((all.only_to(&"canary".into()), all.only_to(&"stable".into())), (vec!["testers"], vec![]));
        assert_eq!((share(&all, "stable"), share(&all, "canary")), (80, 50), "the most of each, in any list");
        let (operations, changed) = all.set(&shares(100)).unwrap();
        let paths: Vec<&str> = operations.iter().map(|operation| operation["path"].as_str().unwrap()).collect();
        assert_eq!(paths, [["/spec/http/2/route"; 2], ["/spec/http/3/route"; 2]].concat());
        assert_eq!(changed.iter().map(|c| c.route.as_str()).collect::<Vec<_>>(), ["first", "second"]);
        let (operations, _) = all.set(&shares(80)).unwrap();
        assert_eq!(operations.len(), 2, "the second has it already");
    }

    #[test]
    fn other_destinations_keep_their_weight() {
        let three = lists(json!([{"route": [to("stable", 40), to("canary", 40), to("beta", 20)]}])).unwrap();
        assert_eq!((share(&three, "stable"), share(&three, "canary")), (50, 50), "of what both have together");
        let (operations, _) = three.set(&shares(95)).unwrap();
        assert_eq!(weights(&operations[1]["value"]), [76, 4, 20]);
        let odd = lists(json!([{"route": [to("stable", 33), to("canary", 0), to("beta", 67)]}])).unwrap();
        let e = odd.set(&shares(50)).unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Invalid, rollback_core::Effect::None));
        assert!(odd.set(&shares(0)).is_ok(), "all of it can be moved");
    }

    #[test]
    fn a_weight_that_is_not_there_means_what_its_platform_says() {
        let entry = |name: &str| json!({"name": name, "port": 80});
        let ends: PartMap<End> = ["stable", "canary"].map(|name| (name.into(), End::Backend(name.into()))).into();
        let rules = json!({"spec": {"rules": [{"backendRefs": [entry("stable"), entry("canary")]}]}});
        let both = Lists::of(Form::HttpRoute, &rules, "ns", &ends).unwrap();
        assert_eq!((share(&both, "stable"), share(&both, "canary")), (50, 50));
        let (operations, _) = both.set(&shares(95)).unwrap();
        assert_eq!(weights(&operations[1]["value"]), [95, 5]);
        let (operations, _) = both.set(&shares(100)).unwrap();
        assert_eq!(weights(&operations[1]["value"]), [2, 0], "what both had together stays");
        let foreign = json!({"spec": {"rules": [{"backendRefs": [
            {"name": "stable", "namespace": "other"}, {"name": "canary", "kind": "Bucket", "group": "x"}]}]}});
        assert!(Lists::of(Form::HttpRoute, &foreign, "ns", &ends).is_err());

        let unsaid = json!({"destination": {"host": "shop", "subset": "canary"}});
        let istio = lists(json!([{"route": [to("stable", 100), unsaid.clone()]}])).unwrap();
        assert_eq!((share(&istio, "stable"), share(&istio, "canary")), (100, 0));
        let only = lists(json!([{"route": [unsaid]}])).unwrap();
        assert_eq!((share(&only, "stable"), share(&only, "canary")), (0, 100));
        assert!(only.set(&shares(100)).unwrap_err().to_string().contains("add the missing side"));
        assert_eq!(only.set(&shares(0)).unwrap(), (vec![], vec![]));
    }

    #[test]
    fn hosts_are_the_same_however_long() {
        let of = |host: &str| End::Istio(Destination::host(host));
        let entry = json!({"destination": {"host": "shop-canary"}});
        assert!(of("shop-canary").is(&entry, "ns") && of("shop-canary.ns.svc.cluster.local").is(&entry, "ns"));
        assert!(!of("shop-canary.other.svc.cluster.local").is(&entry, "ns") && !of("shop").is(&entry, "ns"));
        let twice = json!([{"route": [to("stable", 50), to("canary", 25), to("canary", 25)]}]);
        assert!(lists(twice).unwrap_err().to_string().contains("twice"));
        assert!(lists(json!([])).unwrap_err().to_string().contains("no route to canary or stable"));
    }
}

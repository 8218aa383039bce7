//! How one plan differs from another.

use crate::{DiffLine, Plan, Rung, Step, Wish};

impl Plan {
    /// What is different in another plan, for people: what begins otherwise, then rung by rung, step by step. Empty if and
    /// only if they are equal in all that is shown and done.
    ///
    /// ```
    /// use rollback_core::{
    ///     Capabilities, Fencing, Identity, Observation, PartState, Release, Situation, Strategy, Token, seconds,
    ///     strategy::Direct,
    /// };
    /// let now = Observation::of_one(Identity::new("host", "inode 7"), PartState::of("2.4.0"), Token::none());
    /// let capabilities = Capabilities::new(Fencing::Token);
    /// let situation = Situation::new("dir:/srv/shop".into(), capabilities, now, "2.4.0", Release::new("2.3.9"));
    /// let plan = Direct::default().plan(&situation)?;
    /// assert!(plan.diff(&plan).is_empty());
    /// let other = Direct::default().with_hold(seconds(30)).plan(&situation)?;
    /// let line = &plan.diff(&other)[0];
    /// assert_eq!(line.what, "rung 1, step 1");
    /// assert_eq!(line.to.as_deref(), Some("all back to 2.3.9; all healthy for 30s"));
    /// # Ok::<(), rollback_core::Unplannable>(())
    /// ```
    pub fn diff(&self, other: &Plan) -> Vec<DiffLine> {
        let mut lines = vec![];
        let mut text = |what: &str, from: &dyn ToString, to: &dyn ToString| {
            let (from, to) = (from.to_string(), to.to_string());
            if from != to {
                lines.push(DiffLine::new(what, from, to));
            }
        };
        text("target", &self.target, &other.target);
        text("suspect", &self.suspect, &other.suspect);
        text("wanted", &self.wanted, &other.wanted);
        let parts: std::collections::BTreeSet<_> = self.begins_at.0.keys().chain(other.begins_at.0.keys()).collect();
        for part in parts {
            let (from, to) = (self.begins_at.0.get(part).map(wish), other.begins_at.0.get(part).map(wish));
            if from != to {
                lines.push(DiffLine { what: format!("{part} at the start"), from, to });
            }
        }
        for i in 0..self.rungs.len().max(other.rungs.len()) {
            rung(i, self.rungs.get(i), other.rungs.get(i), &mut lines);
        }
        let left_out = |plan: &Plan| {
            let all: Vec<_> = plan.left_out.iter().map(|(name, why)| format!("{name}: {why}")).collect();
            all.join("; ")
        };
        let (from, to) = (left_out(self), left_out(other));
        if from != to {
            lines.push(DiffLine::new("left out", from, to));
        }
        if self.page != other.page {
            lines.push(DiffLine::new("last", &self.page, &other.page));
        }
        lines
    }
}

fn wish(wish: &Wish) -> String {
    let release = wish.release.as_ref().map_or("?", |release| release.as_str());
    let weight = wish.weight.map(|weight| format!(", {weight} of the traffic")).unwrap_or_default();
    let capacity = wish.capacity.map(|capacity| format!(", {} instances", capacity.count())).unwrap_or_default();
    format!("{release}{weight}{capacity}")
}

fn rung(i: usize, from: Option<&Rung>, to: Option<&Rung>, lines: &mut Vec<DiffLine>) {
    let head = |rung: &Rung| format!("{} (at least {} of the capacity serves)", rung.name, rung.floor);
    let what = format!("rung {}", i + 1);
    let (a, b) = (from.map(head), to.map(head));
    if a != b {
        lines.push(DiffLine { what: what.clone(), from: a, to: b });
    }
    let none = &[][..];
    let (from, to) = (from.map_or(none, |rung| &rung.steps), to.map_or(none, |rung| &rung.steps));
    // What is the same in front and behind is not a difference; what is between is compared one by one.
    let front = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    let behind = from[front..].iter().rev().zip(to[front..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (from, to) = (&from[front..from.len() - behind], &to[front..to.len() - behind]);
    for j in 0..from.len().max(to.len()) {
        let (a, b) = (from.get(j), to.get(j));
        if a != b {
            let (mut shown_from, mut shown_to) = (a.map(Step::to_string), b.map(Step::to_string));
            // The same line, and yet not the same: then all of it.
            if shown_from == shown_to {
                (shown_from, shown_to) = (a.map(|step| format!("{step:?}")), b.map(|step| format!("{step:?}")));
            }
            lines.push(DiffLine { what: format!("{what}, step {}", front + j + 1), from: shown_from, to: shown_to });
        }
    }
}

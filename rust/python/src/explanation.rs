//! `Explanation`: why a packet gets its verdict.

use std::net::SocketAddr;

use kbe_nat_engine as core;
use kbe_nat_engine::service::Scope;
use pyo3::prelude::*;

use crate::html;
use crate::values::{Portable, constant, portable, text};

/// Why a packet gets its verdict. Nothing was changed to find out.
#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Explanation(pub(crate) core::Explanation);

#[pymethods]
impl Explanation {
    /// What `process` would do, as the action of a `Verdict`.
    #[getter]
    fn action(&self) -> &'static str {
        self.0.verdict.action.name()
    }

    /// Why, in a word, as of a `Verdict`.
    #[getter]
    fn cause(&self) -> &'static str {
        self.0.verdict.cause.name()
    }

    /// The name of the service port; None where no one has the destination.
    #[getter]
    fn service(&self) -> Option<&str> {
        self.0.service.as_deref()
    }

    /// How its destination is meant, as the `kind` of a `Frontend`; None when it belongs to a known
    /// flow, or to nobody.
    #[getter]
    fn frontend(&self) -> Option<&'static str> {
        self.0.frontend.map(core::FrontendKind::name)
    }

    /// "cluster" or "local": which endpoints serve it, when it opens a flow.
    #[getter]
    fn scope(&self) -> Option<&'static str> {
        self.0.scope.map(Scope::name)
    }

    /// The backend that the next such packet gets, as "address:port".
    #[getter]
    fn backend(&self) -> Option<String> {
        self.0.backend.map(|backend| backend.to_string())
    }

    /// Every backend that it may be sent to, sorted as text.
    #[getter]
    fn candidates(&self) -> Vec<String> {
        in_order(&self.0.candidates)
    }

    /// Backends that may be chosen, too, but their address is a frontend at which it is refused;
    /// each with action and cause.
    #[getter]
    fn refused(&self) -> Vec<(String, &'static str, &'static str)> {
        let mut refusals: Vec<_> = self
            .0
            .refused
            .iter()
            .map(|(backend, action, cause)| (backend.to_string(), action.name(), cause.name()))
            .collect();
        refusals.sort_unstable();
        refusals
    }

    /// Whether the source would be replaced by the node's, for the `backend` given.
    #[getter]
    fn masquerade(&self) -> bool {
        self.0.verdict.flags & core::Verdict::MASQUERADE != 0
    }

    /// Candidates for which the source is masqueraded.
    #[getter]
    fn masqueraded(&self) -> Vec<String> {
        in_order(&self.0.masqueraded)
    }

    /// What was checked, in order, and what was found.
    #[getter]
    fn steps(&self) -> Vec<(&'static str, &str)> {
        self.0.steps.iter().map(|(check, found)| (*check, found.as_str())).collect()
    }

    fn __repr__(&self) -> String {
        format!("<Explanation {}>", self.outcome())
    }

    /// The outcome, and the steps below it, a line each.
    fn __str__(&self) -> String {
        let steps = &self.0.steps;
        let width = steps.iter().map(|(check, _)| check.len()).max().unwrap_or(0);
        let lines = steps.iter().map(|(check, found)| format!("\n{check:<width$}  {found}"));
        self.outcome() + &lines.collect::<String>()
    }

    /// What notebooks show.
    fn _repr_html_(&self) -> String {
        let steps = self.0.steps.iter();
        let rows = steps.map(|(check, found)| vec![(*check).to_owned(), found.clone()]);
        html::table(&self.__repr__(), &["checked", "found"], rows)
    }
}

impl Explanation {
    /// Action, cause, service port and backend.
    fn outcome(&self) -> String {
        let mut text = format!("{}: {}", self.action(), self.cause());
        text.extend(self.service().map(|service| format!(", {service}")));
        text.extend(self.backend().map(|backend| format!(", {backend}")));
        text
    }
}

fn in_order(addresses: &[SocketAddr]) -> Vec<String> {
    let mut texts: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    texts.sort_unstable();
    texts.dedup();
    texts
}

portable!(Explanation);

impl Portable for Explanation {
    /// The verdict's record as a number; service port, frontend, scope and backend; candidates and
    /// the masqueraded ones; refusals with the places of action and cause; steps.
    #[allow(clippy::type_complexity)]
    type State = (
        u64,
        [Option<String>; 4],
        [Vec<String>; 2],
        Vec<(String, usize, usize)>,
        Vec<(String, String)>,
    );

    fn state(&self) -> Self::State {
        let core::Explanation { verdict, candidates, refused, masqueraded, steps, .. } = &self.0;
        let names =
            [self.service(), self.frontend(), self.scope()].map(|name| name.map(str::to_owned));
        let [service, frontend, scope] = names;
        let refusal = |(end, action, cause): &(SocketAddr, core::Action, core::Cause)| {
            (text(end), *action as usize, *cause as usize)
        };
        (
            u64::from_le_bytes(verdict.record()),
            [service, frontend, scope, self.backend()],
            [candidates, masqueraded].map(|ends| ends.iter().map(text).collect()),
            refused.iter().map(refusal).collect(),
            steps.iter().map(|(check, found)| ((*check).to_owned(), found.clone())).collect(),
        )
    }

    fn restore((record, names, ends, refused, steps): Self::State) -> Option<Self> {
        let [service, frontend, scope, backend] = names;
        let scopes = [Scope::Cluster, Scope::Local];
        let refusal = |(end, action, cause): (String, usize, usize)| {
            let verdict = (*core::Action::ALL.get(action)?, *core::Cause::ALL.get(cause)?);
            Some((end.parse().ok()?, verdict.0, verdict.1))
        };
        let [candidates, masqueraded] = ends.map(parsed);
        Some(Self(core::Explanation {
            verdict: core::Verdict::from_record(record.to_le_bytes())?,
            service,
            frontend: frontend.as_deref().and_then(kind),
            scope: scopes.into_iter().find(|each| scope.as_deref() == Some(each.name())),
            backend: backend.map(|end| end.parse()).transpose().ok()?,
            candidates: candidates?,
            refused: refused.into_iter().map(refusal).collect::<Option<_>>()?,
            masqueraded: masqueraded?,
            steps: steps.into_iter().map(|(check, found)| (constant(&check), found)).collect(),
        }))
    }
}

fn kind(name: &str) -> Option<core::FrontendKind> {
    let closed = core::FrontendKind::ClosedNodePort;
    core::FrontendKind::from_name(name).or((closed.name() == name).then_some(closed))
}

fn parsed(ends: Vec<String>) -> Option<Vec<SocketAddr>> {
    ends.iter().map(|end| end.parse().ok()).collect()
}

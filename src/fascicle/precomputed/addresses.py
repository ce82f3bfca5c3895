"""What the parts of `/precomputed/<repo>/<version>/<instance>/...` name.

<repo>      the alias of a repo, or the first characters of its UUID (that of its root, or of any of its versions)
<version>   a version of that repo: a tag or whole UUID; a branch, with steps back if wanted (`side~2`); the first
            characters of a UUID. The first of these that there is counts.
"""

from __future__ import annotations

from fascicle.errors import BadRequest, NotFound
from fascicle.versions.catalog import Catalog
from fascicle.versions.model import Instance, Node, Repo
from fascicle.versions.references import branch_name

LASTING_PREFIX = 8
"""So many characters of a UUID are taken to mean the same version for good."""


def find_repo(catalog: Catalog, name: str) -> Repo:
    """Raises NotFound if there is no such repo, BadRequest if there are several."""
    repos = catalog.repos()
    found = [repo for repo in repos if repo.alias == name]
    if not found:
        found = [repo for repo in repos if repo.root_uuid.startswith(name.lower())]
    if not found:
        numbers = {node.repo_id for node in catalog.nodes_with_prefix(name.lower())}
        found = [catalog.repo(number) for number in sorted(numbers)]
    if not found:
        raise NotFound(f"there is no repo with the alias or UUID {name!r}")
    if len(found) > 1:
        raise BadRequest(f"{name!r} means {len(found)} repos; give the UUID of one")
    return found[0]


def find_version(catalog: Catalog, repo: Repo, name: str) -> tuple[Node, bool]:
    """(the version, whether this name will always mean it). Raises NotFound or BadRequest as `find_repo` does."""
    exact = catalog.node_by_uuid(name) or catalog.node_by_uuid(name.lower())
    if exact is not None and exact.repo_id == repo.id:
        return exact, True
    branch = name.partition("~")[0]
    if ":" not in name and catalog.has_branch(repo.id, branch_name(branch)):
        return catalog.resolve(f"{repo.root_uuid}:{name}"), False
    found = [node for node in catalog.nodes(repo.id) if node.uuid.startswith(name.lower())]
    if not found:
        raise NotFound(f"repo {repo.root_uuid} has no version, branch or tag {name!r}")
    if len(found) > 1:
        raise BadRequest(f"{name!r} means {len(found)} versions; give more of the UUID of one")
    return found[0], len(name) >= LASTING_PREFIX


def find_instance(catalog: Catalog, repo: Repo, name: str) -> Instance:
    """Raises NotFound."""
    if not catalog.has_instance(repo.id, name):
        raise NotFound(f"repo {repo.root_uuid} has no data instance {name!r}")
    return catalog.instance(repo.id, name)

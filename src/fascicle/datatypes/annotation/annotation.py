"""The routes of annotations: requests to calls on the modules of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any, ClassVar

import msgspec

from fascicle.datatypes.annotation import edits, following, kind_counts, lists, merging, reading, reloading
from fascicle.datatypes.annotation.elements import batch_of, decode_blocks, decode_elements, parse_block, parse_position
from fascicle.datatypes.annotation.layout import ELEMENTS, TAGS, Triple
from fascicle.datatypes.annotation.reading import Box
from fascicle.datatypes.annotation.segmentation import (
    LABELMAP,
    block_size_of,
    followed_labelmap,
    indexed_labelmap,
    segmentation_at,
)
from fascicle.datatypes.base import ANY_METHOD, Answer, Call, Change, Commit, Datatype, Option, Reply, Route, Work
from fascicle.datatypes.image.block_cache import cache_of
from fascicle.datatypes.roi.regions import region_named
from fascicle.errors import NOT_JSON, BadRequest
from fascicle.versions.model import Instance

_JSON = "application/json"


# -- what requests share


def _only(methods: str) -> Callable[[Call], Reply]:
    def refuse(call: Call) -> Reply:
        raise BadRequest(f"Only {methods} action is available on '{call.keyword}' endpoint.")

    return refuse


def _nothing_more(call: Call) -> None:
    if call.args:
        raise BadRequest(f"Do not expect additional parameters after '{call.keyword}': {call.args[0]!r}")


def _box(call: Call) -> Box:
    if len(call.args) < 2:
        raise BadRequest(f"Expect size and offset to follow '{call.keyword}' in GET request")
    return Box.of(parse_position(call.args[0]), parse_position(call.args[1]))


def _size(call: Call) -> Triple:
    return block_size_of(call.catalog, call.instance)


def _logged(call: Call, change: Change, action: str, **members: Any) -> None:
    if call.query.get("kafkalog") != "off":
        change.record({"Action": action, **members})


# -- elements


def _get_elements(call: Call) -> Answer:
    return Answer(reading.in_box(call.view, _box(call), _size(call)), _JSON)


def _post_elements(call: Call) -> Reply:
    reloading.resume_if_left(call)
    batch = edits.in_key_order(batch_of(decode_elements(call.body)), _size(call))
    labelmap = followed_labelmap(call.catalog, call.instance)
    segmentation = segmentation_at(call.txn, call.catalog, labelmap, call.node, cache_of(call.store))
    located = None if segmentation is None or not len(batch) else edits.Located.of(segmentation, batch)

    def apply(change: Change) -> None:
        reloading.refuse_while_reloading(change)
        edits.post_elements(change, batch, located)
        if len(batch):
            _logged(call, change, "element-post", Elements=len(batch))

    return Commit(apply)


def _delete_element(call: Call) -> Reply:
    position = parse_position(call.argument(0, "a position x_y_z"))

    def apply(change: Change) -> None:
        edits.delete_element(change, position)
        _logged(call, change, "element-delete", Point=position)

    return Commit(apply)


def _move_element(call: Call) -> Reply:
    position = parse_position(call.argument(0, "two positions x_y_z"))
    target = parse_position(call.argument(1, "two positions x_y_z"))
    reloading.resume_if_left(call)

    def apply(change: Change) -> None:
        reloading.refuse_while_reloading(change)
        edits.move_element(change, position, target)
        _logged(call, change, "element-move", From=position, To=target)

    return Commit(apply)


# -- blocks


def _get_blocks(call: Call) -> Answer:
    box = _box(call)
    blocks = box if box.is_empty else box.blocks(_size(call))
    return Answer(reading.by_block(call.view, blocks), _JSON)


def _all_elements(call: Call) -> Answer:
    _nothing_more(call)
    return Answer(reading.by_block(call.view, None), _JSON)


def _post_blocks(call: Call) -> Reply:
    reloading.resume_if_left(call)
    given = {parse_block(name): batch_of(elements) for name, elements in decode_blocks(call.body).items()}

    def apply(change: Change) -> None:
        reloading.refuse_while_reloading(change)
        edits.post_blocks(change, given)
        if given:
            _logged(call, change, "blocks-post", Blocks=len(given))

    return Commit(apply)


def _scan(call: Call) -> Answer:
    _nothing_more(call)
    return Answer(b'{"num kv pairs":%d,"num empty blocks":0}' % reading.count_blocks(call.view), _JSON)


def _in_region(call: Call) -> Answer:
    region = region_named(call.catalog, call.txn, call.node, call.argument(0, "a region: <name> or <name>,<uuid>"))
    size = _size(call)
    if region.block_size != size:
        raise BadRequest(
            f'/roi endpoint currently requires ROI "{call.args[0]}" to have same block size as annotation '
            f'"{call.instance.name}", which has {size}, not {region.block_size}'
        )
    boxes = (Box((x0, y, z), (x1, y, z)) for z, y, x0, x1 in region.spans.tolist())
    return Answer(reading.in_spans(call.view, boxes), _JSON)


# -- bodies and tags


def _get_label(call: Call) -> Answer:
    text = call.argument(0, "a label")
    try:
        if not (text.isascii() and text.isdecimal()):
            raise ValueError
        label = int(text)
        label.to_bytes(8, "big")
    except (ValueError, OverflowError):
        raise BadRequest(f"{text!r} is no label: a decimal number of up to 64 bits is expected") from None
    if label == 0:
        raise BadRequest("Label 0 is protected background value and cannot be used for query.")
    reloading.resume_if_left(call)
    view, form = call.view, call.query.get("relationships", "")
    posted = lists.read(view, label)
    if posted is not None:
        return Answer(reading.posted(view, posted, form, _size(call)), _JSON)
    labelmap = indexed_labelmap(call.catalog, call.instance)
    segmentation = segmentation_at(call.txn, call.catalog, labelmap, call.node)
    return Answer(reading.of_body(view, segmentation, label, form, _size(call)), _JSON)


def _get_tag(call: Call) -> Answer:
    tag = call.argument(0, "a tag")
    view = call.view
    return Answer(
        reading.listed(view, reading.rows_of_tag(view, tag), call.query.get("relationships", ""), _size(call)), _JSON
    )


_decode_labels = msgspec.json.Decoder(dict[str, str] | None).decode


def _post_labels(call: Call) -> Reply:
    if call.args:
        raise BadRequest(f"Extraneous arguments after POST /labels endpoint: {call.args[0]!r}")
    try:
        given = _decode_labels(call.body) or {}
    except NOT_JSON as error:
        raise BadRequest(f"a JSON object of texts by label was expected: {error}") from None
    posted: dict[int, bytes] = {}
    for name, text in given.items():
        try:
            if not (name.isascii() and name.isdecimal()):
                raise ValueError
            label = int(name)
            label.to_bytes(8, "big")
        except (ValueError, OverflowError):
            raise BadRequest(f"{name!r} is no label: a decimal number of up to 64 bits is expected") from None
        if label:
            posted[label] = text.encode()
    reloading.resume_if_left(call)

    def apply(change: Change) -> None:
        reloading.refuse_while_reloading(change)
        for label, text in posted.items():
            lists.write(change.view, label, text)

    return Commit(apply)


# -- the rest


def _reload(call: Call) -> Answer:
    # Not a `Commit`: what goes on for a while has to run, and to be waited for, in this thread of the pool.
    reloading.reload(call, check=call.flag("check"), streamed=call.query.get("inmemory") == "false")
    return Answer()


_OTHERS = {"HEAD": _only("GET or POST"), ANY_METHOD: _only("GET or POST")}
_NO_OTHERS = {"HEAD": _only("GET"), ANY_METHOD: _only("GET")}
_RELATIONSHIPS = Option(
    "relationships", "`true`: with the relationships of each element; `verbose`: with its partners' data as well"
)
_KAFKALOG = Option("kafkalog", "`off`: leave no record of the mutation")


class Annotation(Datatype):
    """Elements at voxels, found by space, by body and by tag."""

    typename: ClassVar[str] = "annotation"
    type_url: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/annotation"
    summary: ClassVar[str] = (
        "Points with a kind, tags, properties and relationships, found by space, by tag and by the body they lie in."
    )
    versioned_classes: ClassVar[tuple[int, ...]] = (ELEMENTS, TAGS)
    routes: ClassVar[tuple[Route, ...]] = (
        Route(
            "elements",
            {"GET": _get_elements, "POST": _post_elements, **_OTHERS},
            "GET: the elements in a box of voxels. POST: store elements of a JSON list; one at the same position "
            "already is replaced as a whole.",
            "<size x_y_z>/<offset x_y_z>",
            (_KAFKALOG,),
            work=Work.HEAVY,
        ),
        Route(
            "element",
            {"DELETE": _delete_element, ANY_METHOD: _only("DELETE")},
            "Delete the element at a position, and the relationships that its partners have to it.",
            "<x_y_z>",
            (_KAFKALOG,),
        ),
        Route(
            "move",
            {"POST": _move_element, ANY_METHOD: _only("POST")},
            "Move the element at the first position to the second one; relationships of its partners follow.",
            "<from x_y_z>/<to x_y_z>",
            (_KAFKALOG,),
        ),
        Route(
            "label",
            {"GET": _get_label, **_NO_OTHERS},
            "The elements in a body.",
            "<label>",
            (_RELATIONSHIPS,),
            work=Work.HEAVY,
        ),
        Route(
            "tag",
            {"GET": _get_tag, **_NO_OTHERS},
            "The elements that have a tag.",
            "<tag>",
            (_RELATIONSHIPS,),
            work=Work.HEAVY,
        ),
        Route(
            "labels",
            {"POST": _post_labels, ANY_METHOD: _only("POST")},
            "Replace what the index says of labels: a JSON object of texts by label, each a JSON list of elements "
            "without relationships. Holds until a reload.",
            work=Work.HEAVY,
        ),
        Route(
            "roi",
            {"GET": _in_region, **_NO_OTHERS},
            "The elements in the blocks of a region of interest, which must have blocks of the same size.",
            "<name>[,<uuid>]",
            work=Work.HEAVY,
        ),
        Route(
            "all-elements",
            {"GET": _all_elements, **_NO_OTHERS},
            "All elements, by block.",
            work=Work.HEAVY,
        ),
        Route(
            "blocks",
            {"GET": _get_blocks, "POST": _post_blocks, **_OTHERS},
            "GET: the elements of all blocks that a box of voxels touches, by block. POST: replace the elements of "
            "blocks; what is found by body and by tag follows with a reload.",
            "<size x_y_z>/<offset x_y_z>",
            (_KAFKALOG,),
            work=Work.HEAVY,
        ),
        Route(
            "reload",
            {"POST": _reload, ANY_METHOD: _only("POST")},
            "Make what is found by body and by tag anew from the blocks, in the background; POST is refused meanwhile.",
            "",
            (
                Option("check", "`true`: leave what is listed of bodies and tags that no element belongs to"),
                Option("inmemory", "`false`: also remove elements from blocks that they do not lie in"),
            ),
            work=Work.HEAVY,
        ),
        Route(
            "scan",
            {"GET": _scan, **_NO_OTHERS},
            "How many blocks are stored.",
            work=Work.HEAVY,
        ),
    )

    def create(self, settings: Mapping[str, str]) -> dict[str, Any]:
        return {kind_counts.PROPERTY: True}

    def merged(self, change: Change, apart: Set[int]) -> None:
        merging.settle(change, apart)

    def syncable(self) -> bool:
        return True

    def followable(self) -> tuple[str, ...]:
        return (LABELMAP,)

    def follow(self, change: Change, publisher: Instance, event: Any) -> None:
        following.follow(change, publisher, event)

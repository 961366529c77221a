"""sv_core.models.family: what a record answers about itself."""

from sv_core.models.family import Family, Size


def test_a_host_s_class_is_the_family_s_by_any_of_its_configurations():
    one = Family("One", hosts=("Net",), where=({"kind": "a", "wide": True}, {"kind": "b"}))
    assert one.is_host("Net", {"kind": "a", "wide": True, "depth": 3})
    assert one.is_host("Net", {"kind": "b"})
    assert not one.is_host("Net", {"kind": "a"}) and not one.is_host("Net", {})
    assert not one.is_host("Other", {"kind": "b"})
    assert Family("Any", hosts=("Net",)).is_host("Net", {})


def test_what_its_latents_are():
    kinds = {kind: Family(kind, kind=kind) for kind in ("pictures", "one frame", "video")}
    assert [f.frames for f in kinds.values()] == [False, True, True]
    assert [f.moving for f in kinds.values()] == [False, False, True]


def test_it_answers_to_its_name_and_its_aliases():
    family = Family("New", aliases=("old", "older"))
    assert [family.answers_to(w) for w in ("New", "old", "older", "new")] == [True] * 3 + [False]


def test_weights_are_those_of_the_blocks_and_the_rest():
    assert Size(5, (3, 4), width=1, mlp_ratio=4, features=2).weights == 12

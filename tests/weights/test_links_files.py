"""Links on disk: bit-exact there and back, and one line about whatever is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.errors import InputError
from rmas.links import LinkSpec, init_links
from rmas.weights.links import load_links, save_links

MANIFEST = {"form": "ln_res", "topology": {"agents": ["a", "b"]}, "prompts": {"name": "ü"}}


@pytest.fixture(scope="module")
def links():
    spec = LinkSpec("ln_res", (("a", 4), ("b", 6)), (("a", "b"), ("b", "a")))
    shapes = jax.eval_shape(lambda: init_links(spec, jax.random.key(0)))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(random.standard_normal(x.shape), x.dtype), shapes)


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_there_and_back(tmp_path, links):
    folder = tmp_path / "new" / "links"
    save_links(folder, links, MANIFEST)
    assert {p.name for p in folder.iterdir()} == {"links.safetensors", "manifest.json"}
    template = jax.eval_shape(lambda: links)
    loaded, manifest = load_links(folder, template)
    same_bits(loaded, links)
    assert manifest == MANIFEST
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))


def test_parts_of_the_tree_and_other_memory_layouts(tmp_path, links):
    part = {"inner": {"a": jax.tree.map(np.asarray, links["inner"]["a"])}}
    kernel = part["inner"]["a"]["proj1"]["kernel"]
    part["inner"]["a"]["proj1"]["kernel"] = np.asfortranarray(kernel)
    save_links(tmp_path, part, {})
    loaded, _ = load_links(tmp_path, jax.eval_shape(lambda: part))
    same_bits(loaded, part)


def test_saving_again_replaces(tmp_path, links):
    save_links(tmp_path, links, {"n": 1})
    other = jax.tree.map(lambda x: x + 1, links)
    save_links(tmp_path, other, {"n": 2})
    loaded, manifest = load_links(tmp_path, links)
    same_bits(loaded, other)
    assert manifest == {"n": 2}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["links.safetensors", "manifest.json"])
def test_a_missing_file_is_named(tmp_path, links, name):
    save_links(tmp_path, links, MANIFEST)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=name) as e:
        load_links(tmp_path, links)
    assert str(tmp_path) in str(e.value)


def test_links_under_the_manifest_of_others_are_refused(tmp_path, links):
    """What a kill between the two files would leave."""
    save_links(tmp_path / "a", links, MANIFEST)
    save_links(tmp_path / "b", jax.tree.map(lambda x: x + 1, links), MANIFEST)
    (tmp_path / "a" / "links.safetensors").replace(tmp_path / "b" / "links.safetensors")
    with pytest.raises(InputError, match="does not match the digest in manifest"):
        load_links(tmp_path / "b", links)


def test_no_folder(tmp_path, links):
    with pytest.raises(InputError, match="no links in"):
        load_links(tmp_path / "nowhere", links)


@pytest.mark.parametrize("name", ["links.safetensors", "manifest.json"])
def test_a_file_cut_at_any_byte_is_refused(tmp_path, links, name):
    save_links(tmp_path, links, MANIFEST)
    file = tmp_path / name
    whole = file.read_bytes()
    ends = range(len(whole) - 1) if name == "manifest.json" else range(0, len(whole), 97)
    for end in ends:  # the manifest's last byte is a newline
        file.write_bytes(whole[:end])
        with pytest.raises(InputError) as e:
            load_links(tmp_path, links)
        assert str(tmp_path) in str(e.value)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("content", [b"[]", b"3", b'"x"', b"\xff\xfe", b"{]"])
def test_a_manifest_that_is_no_object_is_refused(tmp_path, links, content):
    save_links(tmp_path, links, MANIFEST)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        load_links(tmp_path, links)


def test_other_names_are_listed(tmp_path, links):
    renamed = {"inner": links["inner"], "outer": {"a->c": links["outer"]["a->b"]}}
    save_links(tmp_path, renamed, MANIFEST)
    with pytest.raises(InputError, match="another system") as e:
        load_links(tmp_path, links)
    missing, unknown = str(e.value).split("unknown")
    assert "outer/a->b/proj1/kernel" in missing
    assert "outer/b->a/ln_source/bias" in missing
    assert "outer/a->c/proj1/kernel" in unknown
    assert "inner" not in str(e.value)
    save_links(tmp_path, links, MANIFEST)
    with pytest.raises(InputError, match="missing nothing"):
        load_links(tmp_path, {"inner": links["inner"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: jnp.zeros((7,)), r"float32\(4,\).*float32\(7,\)"),
        (lambda x: x.astype(jnp.bfloat16), r"float32\(4,\).*bfloat16\(4,\)"),
    ],
)
def test_another_shape_or_type_is_named(tmp_path, links, change, message):
    save_links(tmp_path, links, MANIFEST)
    template = jax.tree.map(lambda x: x, links)
    template["inner"]["a"]["pre_ln"]["bias"] = change(links["inner"]["a"]["pre_ln"]["bias"])
    with pytest.raises(InputError, match=message) as e:
        load_links(tmp_path, template)
    assert "inner/a/pre_ln/bias" in str(e.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_links_that_hold_nan_or_inf(tmp_path, links, value):
    part = {"inner": {"a": jax.tree.map(np.array, links["inner"]["a"])}}
    part["inner"]["a"]["proj1"]["kernel"][1, 2] = value
    save_links(tmp_path, part, {})
    with pytest.raises(
        InputError, match="inner/a/proj1/kernel is damaged, since it holds nan or i"
    ):
        load_links(tmp_path, jax.eval_shape(lambda: part))


def test_links_that_are_git_lfs_pointers(tmp_path, links):
    save_links(tmp_path, links, {})
    (tmp_path / "links.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match=r"links\.safetensors is a Git LFS pointer"):
        load_links(tmp_path)

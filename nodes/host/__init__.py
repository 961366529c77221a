"""Everything that the nodes use of ComfyUI's internals: the only rooms that import ``comfy.*``.

Other files of nodes/ import no more of the host than its public interface, ``comfy_api.latest``,
and ``folder_paths``.
"""

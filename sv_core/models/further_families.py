"""Families that are sampled as they are: known by name, with their official workflow's settings.

They have no setting of the paper's and are not trained here. ``families`` has those that do or are.
"""

from .family import Family, Template

FURTHER = (
    # Built upon Flux in the host, each with a grid or a guidance of its own.
    Family(
        "Flux.2",
        hosts=("Flux2",),
        template=Template("image_flux2", 20, 1.0, scheduler=None),
    ),
    Family(
        "Chroma",
        hosts=("Chroma", "ChromaRadiance"),
        template=Template("image_chroma_text_to_image", 26, 3.5, scheduler="beta", shift=1.0),
    ),
    Family(
        "LongCat-Image",
        hosts=("LongCatImage",),
        template=Template("image_longcat_text_to_image", 20, 4.0),
    ),
    Family(
        "Krea",
        hosts=("Krea2",),
        kind="one frame",
        template=Template("image_krea2_turbo_t2i", 8, 1.0),
    ),
    Family("AuraFlow", hosts=("AuraFlow",)),
    Family("Lens", hosts=("Lens",), template=Template("image_lens_t2i", 20, 5.0)),
    Family(
        "Z-Image",
        hosts=("Lumina2",),
        where=({"z_image_modulation": True},),
        template=Template("image_z_image", 25, 4.0, "res_multistep", shift=3.0),
    ),
    Family("Z-Image pixels", hosts=("ZImagePixelSpace",)),
    Family(
        "Lumina 2",
        hosts=("Lumina2",),
        template=Template("image_netayume_lumina_t2i", 30, 4.0, "res_multistep", shift=4.0),
    ),
    Family(
        "HiDream-I1",
        hosts=("HiDream",),
        template=Template("hidream_i1_full", 50, 5.0, "uni_pc", shift=3.0),
    ),
    Family(
        "HiDream-O1",
        hosts=("HiDreamO1",),
        template=Template("image_hidream_o1", 40, 5.0, "dpmpp_2m_sde_gpu", "normal"),
    ),
    Family("OmniGen2", hosts=("Omnigen2",), template=Template("image_omnigen2_t2i", 20, 5.0)),
    Family(
        "Boogu",
        hosts=("Boogu",),
        template=Template("image_boogu_image_0_1_edit", 25, 3.5, "dpmpp_2m", shift=3.16),
    ),
    Family("Ernie-Image", hosts=("ErnieImage",), template=Template("image_ernie_image", 20, 4.0)),
    Family("Ideogram 4", hosts=("Ideogram4",)),
    Family(
        "Mage-Flow", hosts=("MageFlow",), template=Template("image_mage_flow_t2i_int8", 30, 5.0)
    ),
    Family(
        "PixelDiT",
        hosts=("PixelDiTT2I",),
        template=Template("image_pixeldit_t2i", 30, 4.0, "er_sde"),
    ),
    Family("PiD", hosts=("PiD",)),
    Family("HunyuanImage 2.1", hosts=("HunyuanImage21", "HunyuanImage21Refiner")),
    Family(
        "JoyImage",
        hosts=("JoyImage",),
        kind="one frame",
        template=Template("image_joyai_image_edit", 40, 4.0, scheduler="normal"),
    ),
    Family(
        "Anima",
        hosts=("Anima",),
        kind="one frame",
        template=Template("image_anima_base_v1", 30, 4.0),
    ),
    Family("Cosmos-Predict2", hosts=("CosmosPredict2",), kind="video"),
    Family(
        "Kandinsky 5",
        hosts=("Kandinsky5",),
        kind="video",
        template=Template("video_kandinsky5_t2v", 50, 5.0, "euler_ancestral", "beta", 5.0),
    ),
    Family(
        "Kandinsky 5 Image",
        hosts=("Kandinsky5Image",),
        template=Template("image_kandinsky5_t2i", 50, 3.5, shift=3.0),
    ),
    Family("Wan causal", hosts=("WAN21_CausalAR",), kind="video"),
    Family(
        "Wan VACE",
        hosts=("WAN21_Vace",),
        kind="video",
        template=Template("video_wan_vace_flf2v", 20, 6.0, "uni_pc", shift=8.0),
    ),
    Family(
        "Wan2.2 camera",
        hosts=("WAN21_Camera",),
        kind="video",
        template=Template("video_wan2_2_14B_fun_camera", 20, 3.5, shift=8.0),
    ),
    Family(
        "Wan2.2 S2V",
        hosts=("WAN22_S2V",),
        kind="video",
        template=Template("video_wan2_2_14B_s2v", 10, 6.0, "uni_pc", shift=8.0),
    ),
    Family("Wan2.2 Animate", hosts=("WAN22_Animate",), kind="video"),
    Family(
        "Wan HuMo",
        hosts=("WAN21_HuMo",),
        kind="video",
        template=Template("video_humo", 6, 1.0, "uni_pc", shift=8.0),
    ),
    Family(
        "Wan SCAIL",
        hosts=("WAN21_SCAIL", "WAN21_SCAIL2"),
        kind="video",
        template=Template("video_wan21_scail2_character_replacement", 6, 1.0, shift=5.0),
    ),
    Family(
        "WanDancer",
        hosts=("WAN22_WanDancer",),
        kind="video",
        template=Template("video_wan_dancer", 48, 1.0, shift=5.0),
    ),
    Family(
        "HunyuanVideo",
        hosts=("HunyuanVideo", "HunyuanVideoI2V", "HunyuanVideoSkyreelsI2V"),
        kind="video",
        template=Template("hunyuan_video_text_to_video", 20, 1.0, shift=7.0),
    ),
    Family(
        "HunyuanVideo 1.5",
        hosts=("HunyuanVideo15", "HunyuanVideo15_SR_Distilled"),
        kind="video",
        template=Template("video_hunyuan_video_1.5_720p_t2v", 20, 6.0, shift=7.0),
    ),
    Family(
        "LTX-Video",
        hosts=("LTXV",),
        kind="video",
        stride=8,
        template=Template("ltxv_text_to_video", 30, 3.0, scheduler=None),
    ),
    Family(
        "LTX-2",
        hosts=("LTXAV",),
        kind="video",
        stride=8,
        template=Template("video_ltx2_t2v", 20, 4.0, "euler_ancestral", None),
    ),
    Family("Mochi", hosts=("GenmoMochi",), kind="video", stride=6),
    Family("SeedVR2", hosts=("SeedVR2",), kind="video"),
    Family(
        "ACE-Step",
        hosts=("ACEStep",),
        template=Template("audio_ace_step_1_t2a_song", 50, 5.0, shift=5.0),
    ),
    Family(
        "ACE-Step 1.5",
        hosts=("ACEStep15",),
        template=Template("audio_ace_step1_5_xl_base", 50, 6.0, shift=3.0),
    ),
    Family(
        "Stable Audio 3",
        hosts=("StableAudio3",),
        template=Template("audio_stable_audio_3_medium_base", 50, 7.0, "lcm"),
    ),
    Family(
        "Hunyuan3D 2",
        hosts=("Hunyuan3Dv2",),
        template=Template("3d_hunyuan3d_image_to_model", 20, 8.0, scheduler="normal", shift=1.0),
    ),
    Family(
        "Hunyuan3D 2.1",
        hosts=("Hunyuan3Dv2_1",),
        template=Template("3d_hunyuan3d-v2.1", 30, 5.0, scheduler="normal", shift=1.0),
    ),
    Family(
        "TripoSplat",
        hosts=("TripoSplat",),
        template=Template("3d_triposplat_image_to_gaussian_splat", 20, 3.0, "dpmpp_2m"),
    ),
)

"""Prismatic-style vision-language model that predicts latent actions, and the 10 Hz policies.

config   sizes: debug, tiny (ships, two cores), full (published Prismatic-7B dimensions); other backbones
tokens   word tokenizer, added latent-action tokens, refusal of sentences that cannot be followed
lora     adapters by peft
checkpoint  VLA and policy bundles on disk, lineage
published, pretrained  Prismatic's and OpenVLA's published weights: their two layouts; into our classes
model    two vision towers -> projector -> Llama -> eight latent-action tokens in one forward pass
image_text  other backbones behind the same interface: SmolVLM, Idefics3, InternVL, LLaVA
trace    the model as a recorded graph, for one image at a time
engine   the forward pass on CPU or GPU: number format, quantisation, recorded or CUDA graph
policy   WholeBodyPolicy: VLA + decoder from a policy bundle, Decision out
fakes    ZeroPolicy, ReplayPolicy: the same interface without a network
serve, remote, wire  a policy on another machine: server, client (no torch), messages
"""

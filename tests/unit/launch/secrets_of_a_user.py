"""Thirty secrets as people have them in their environment, under names that no list of words knows whole."""

SECRETS = {
    "HF_TOKEN": "hf_Qq1aaaaaaaaaaaaaaaaaaaaaaa", "HF_KEY": "qq02-value", "HUGGING_FACE_HUB_TOKEN": "hf_Qq3aaaaaaaaaaaaaaaaaaaa", "WANDB_API_KEY": "qq04value",
    "AWS_SECRET_ACCESS_KEY": "qq05value/x+y", "AWS_ACCESS_KEY_ID": "AKIAQQ06AAAAAAAAAAAA", "MY_PASS": "qq07value", "DB_PASSWD": "qq08value",
    "PROXY_AUTH": "qq09value", "SESSION_COOKIE": "qq10value", "http_proxy": "http://me:qq11value@proxy:3128",
    "HTTPS_PROXY": "http://me:qq12value@proxy:3128", "PIP_INDEX_URL": "https://me:qq13value@pypi.example/simple",
    "UV_EXTRA_INDEX_URL": "https://qq14value@pypi.example/simple", "GIT_ASKPASS": "/qq15value", "GITHUB_PAT": "ghp_qq16aaaaaaaaaaaaaaaa",
    "SLURM_JWT": "eyJqq17aaaaaaaaa.b.c", "SLURM_EXPORT_ENV": "ALL,X=qq18value", "NCCL_AUTH": "qq19value", "TORCH_TOKEN": "qq20value",
    "FANAL_KEY": "qq21value", "PRETRAIN_PASS": "qq22value", "CUDA_COOKIE": "qq23value", "OPENAI_ORG": "qq24value", "VAULT_ADDR": "https://qq25value",
    "KRB5CCNAME": "FILE:/tmp/qq26value", "SSH_AUTH_SOCK": "/tmp/qq27value", "DATABASE_URL": "postgres://u:qq28value@db/x",
    "NCCL_SOCKET_IFNAME": "qq29aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "HF_ENDPOINT": "https://me:qq30value@hub.example", "PYTHONPATH": "https://me:qq31value@x/y",
    "TORCHELASTIC_RUN_ID": "qq32value", "MLFLOW_TRACKING_URI": "https://me:qq33value@mlflow", "SLURM_JOB_COMMENT": "qq34value",
    "CUDA_HOME": "/opt/x?token=qq35value", "BASH_FUNC_x%%": "() { qq36value; }",
}  # fmt: skip

"""Lines of slurm.conf that put the sites in a cluster's books: their partitions, features, GPUs, cores and limits."""

BOOKS = """
GresTypes=gpu
EnforcePartLimits=ALL
SuspendProgram=/bin/true
ResumeProgram=/bin/true
SuspendTime=3600
PrivateData=cloud
NodeName=h[1-128] CPUs=96 RealMemory=500000 Gres=gpu:4 Feature=h100 State=CLOUD
NodeName=a[1-64] CPUs=64 RealMemory=500000 Gres=gpu:8 Feature=a100 State=CLOUD
NodeName=v[1-128] CPUs=40 RealMemory=180000 Gres=gpu:4 Feature=v100-32g State=CLOUD
NodeName=c[1-8] CPUs=40 RealMemory=180000 State=CLOUD
NodeName=g[1-64] CPUs=64 RealMemory=500000 Gres=gpu:8 State=CLOUD
NodeName=lrdn[0001-0160] CPUs=32 RealMemory=500000 Gres=gpu:a100:4 State=CLOUD
NodeName=as[001-160] Sockets=2 CoresPerSocket=40 ThreadsPerCore=2 RealMemory=500000 Gres=gpu:4 State=CLOUD
NodeName=nid[005001-005160] Sockets=1 CoresPerSocket=64 ThreadsPerCore=2 CoreSpecCount=8 RealMemory=500000 Gres=gpu:mi250:8 State=CLOUD
NodeName=nid[006001-006160] CPUs=288 RealMemory=800000 Gres=gpu:4 State=CLOUD
NodeName=jpbo-[001-160] CPUs=288 RealMemory=800000 Gres=gpu:gh200:4 State=CLOUD
NodeName=nid[010001-010160] CPUs=288 RealMemory=800000 Gres=gpu:4 State=CLOUD
PartitionName=gpu_p6 Nodes=h[1-128] DefaultTime=10 MaxTime=100:00:00 State=UP
PartitionName=gpu_p5 Nodes=a[1-64] DefaultTime=10 MaxTime=20:00:00 State=UP
PartitionName=gpu_p13 Nodes=v[1-128] DefaultTime=10 MaxTime=100:00:00 State=UP
PartitionName=cpu_p1 Nodes=c[1-8] DefaultTime=10 MaxTime=100:00:00 State=UP
PartitionName=prepost Nodes=c[1-8] DefaultTime=10 MaxTime=20:00:00 State=UP
PartitionName=gpus Nodes=g[1-64] Default=YES DefaultTime=10 MaxTime=INFINITE State=UP
PartitionName=boost_usr_prod Nodes=lrdn[0001-0160] DefaultTime=30 MaxTime=4-00:00:00 State=UP
PartitionName=acc Nodes=as[001-160] DefaultTime=30 MaxTime=3-00:00:00 State=UP
PartitionName=standard-g Nodes=nid[005001-005160] DefaultTime=30 MaxTime=2-00:00:00 MaxNodes=1024 State=UP
PartitionName=dev-g Nodes=nid[005001-005160] DefaultTime=30 MaxTime=3:00:00 MaxNodes=32 State=UP
PartitionName=small-g Nodes=nid[005001-005160] DefaultTime=30 MaxTime=3-00:00:00 MaxNodes=4 State=UP
PartitionName=normal Nodes=nid[006001-006160] DefaultTime=30 MaxTime=12:00:00 State=UP
PartitionName=low Nodes=nid[006001-006160] DefaultTime=30 MaxTime=1-00:00:00 State=UP
PartitionName=debug Nodes=nid[006001-006160] DefaultTime=10 MaxTime=1:30:00 MaxNodes=4 State=UP
PartitionName=booster Nodes=jpbo-[001-160] DefaultTime=30 MaxTime=12:00:00 State=UP
PartitionName=workq Nodes=nid[010001-010160] DefaultTime=30 MaxTime=1-00:00:00 State=UP
"""
"""Nodes of the kind that a cloud starts when they are needed: Slurm plans with them as if they were there. There are as many as the
scripts need, not as many as the machines have. Accounts and QoS are not looked up, since there is no accounting."""

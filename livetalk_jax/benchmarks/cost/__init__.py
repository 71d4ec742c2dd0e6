"""What a plan should take on machines that are not there: arithmetic, memory traffic and exchanges, at rates fitted on one GPU.

Nothing here runs on a device. Volumes are exact (tests compare them with compiled programs); seconds are a model:

    a piece of work   the longer of FLOPs / rate and bytes / rate, the rate lowered where its tiles leave multiprocessors idle
    an exchange       latency + bytes / rate of the links, of which what the compiler overlaps is not counted
"""

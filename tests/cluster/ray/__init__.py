"""The chart on a real KubeRay: a RayService that answers, and a RayJob that trains and outlives a lost worker."""

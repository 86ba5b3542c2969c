"""The Ray Serve application on a Ray of its own: ``python -m tests.e2e.ray_process PORT MODEL EXPERTS STUDIES``.

Says ``ready`` once it answers; a reference on standard input is looked at by the expert's deployment.
"""

import json
import os
import sys
from dataclasses import asdict

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import serve

from serving.ray_app import HandleExperts, Settings, app
from vilam3.experts.protocol import ExpertCall
from vilam3.experts.roster import Listed
from vilam3.objects import open_store
from vilam3.shelf import Shelf


def main() -> None:
    """Serve until standard input ends."""
    port, model, experts, studies = sys.argv[1:]
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(app(Settings(model=model, experts=experts, studies=studies, without_keys=True)), name="vilam3")
    print("ready", flush=True)  # noqa: T201 - a program
    handles = {"VISTA3D": serve.get_deployment_handle("VISTA3D", app_name="vilam3")}
    asked = HandleExperts(handles, [Listed(name="VISTA3D")])
    for reference in sys.stdin:
        study = Shelf(open_store(studies)).get(reference.strip())
        result = asked.run(ExpertCall(expert="VISTA3D", argument="hepatic tumor"), study, slice_index=2)
        print(json.dumps({"text": result.text, **asdict(result.provenance)}), flush=True)  # noqa: T201 - a program
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()

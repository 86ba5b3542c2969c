"""How the platform's pods are placed on a thousand nodes that KWOK pretends, and what that costs the API server."""

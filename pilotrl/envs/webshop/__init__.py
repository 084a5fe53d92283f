"""WebShop (arXiv 2207.01206) in plain Python: search, compare, choose options, buy."""

from pilotrl.envs.webshop.env import WebShop
from pilotrl.envs.webshop.pages import resolve

__all__ = ["WebShop", "resolve"]

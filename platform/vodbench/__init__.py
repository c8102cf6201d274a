"""vodbench: every published way of detecting objects in video, under one protocol, on one front.

This package is the platform: contracts, evaluation, timing, training, sweeps, tracking, reports and the
command line. Methods and data sets are plug-ins (``vodbench_methods``, ``vodbench_datasets``, or any installed
package that declares the entry points named in ``vodbench.registry``); the platform never imports them.
"""

__version__ = "0.1.0"

"""The memory-hierarchy energy model: what training a network costs on a device, term by physical term.

    energy = start + epochs + batches + layers by width + residual additions      (idle and framework)
           + joules per FLOP × FLOPs                                               (arithmetic)
           + Σ over memory levels  joules per byte × bytes moved there             (working sets)

Every coefficient is ≥ 0 and has an interval; a learned correction of the residual is kept only where
validation within the fitted runs says that it helps. ``training`` has the nouns, ``working_sets`` the
bytes, ``terms`` the columns, ``physics`` the non-negative fit, ``effects`` the correction, ``energy``
the model.
"""

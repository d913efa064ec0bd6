"""All cases of the contract that every driver keeps, by name, and what they stand on.

A test of a driver makes a ``Target`` and runs ``CASES[name](Ground(target, driver, folder, bundle))`` for each name,
those in ``target.left_out`` skipped with their reason.
"""

from tests.devices import contract_damage_cases, contract_job_cases, contract_push_cases, contract_update_cases
from tests.devices.contract_ground import CASES, Ground, Watch, case, one_line, some_bytes

__all__ = ["CASES", "Ground", "Watch", "case", "one_line", "some_bytes"]

for _module in (contract_push_cases, contract_damage_cases, contract_job_cases, contract_update_cases):
    assert _module.case  # each adds its cases when it is imported

"""One suite a seam; every adapter passes it."""

import pytest

pytest.register_assert_rewrite("contract.source_contract")

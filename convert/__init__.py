"""On the workstation: a recipe's trained model -> a bundle that was checked through edge itself.

`edge convert models/NAME`, or `python -m convert models/NAME`. The order of the work stands in
`convert.build`. Nothing here is imported on a device.
"""

"""The colours of the plots, by what they mark.

USED, SPLIT and BOUNDARY are Okabe and Ito's colours, which are distinct with any colour vision; the
marks also differ in shape.
"""

USED, NATIVE, SPLIT, BOUNDARY = "#0072B2", "#8A8F98", "#D55E00", "#009E73"
USED_LINE, NATIVE_LINE = "#8CC0E0", "#C9CCD1"
HIGH_BAND, LOW_BAND = "#FCEFE3", "#EDF4FA"
TEXT, QUIET_TEXT, BACKGROUND = "#1D2129", "#5B616B", "#FFFFFF"
